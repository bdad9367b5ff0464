"""kind's node image from what the harness builds, with Kubernetes' own images in its containerd."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

from tests.cluster import binaries, images
from tests.cluster.images import Image
from tests.cluster.paths import CACHE
from tests.cluster.run import locked, run, say

HERE = Path(__file__).resolve().parent
_FOLDER = CACHE / "kind"
_RECIPE = ("Dockerfile", "kindnetd", "manifests/default-cni.yaml", "manifests/default-storage.yaml")
_PROGRAMS = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"),
    *("etcd", "coredns", "kubeadm", "kubectl", "kubelet"),
    *("containerd", "containerd-shim-runc-v2", "ctr"),
)
# In kind's own containerd configuration.
_PAUSE = "registry.k8s.io/pause:3.10"
_IMPORT = """
mount --make-rprivate /
mount -t tmpfs run /run
cat > /run/containerd.toml <<TOML
version = 3
root = "$0"
state = "/run/containerd"
disabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
TOML
"$1" --config /run/containerd.toml >/run/log 2>&1 &
until "$2" version >/dev/null 2>&1; do
  kill -0 $! || { cat /run/log >&2; exit 1; }
  sleep 0.1
done
ctr=$2; shift 2
while [ $# -gt 0 ]; do
  "$ctr" -n k8s.io images import --local --no-unpack "$1" >/dev/null
  "$ctr" -n k8s.io images tag "$2" "$3" >/dev/null
  "$ctr" -n k8s.io images rm "$2" >/dev/null
  shift 3
done
kill $!; wait $! || true
"""


def archive() -> Path:
    """Where the node image is, or will be once it is built."""
    digest = hashlib.sha256()
    digest.update(_IMPORT.encode())
    for name in _RECIPE:
        digest.update((HERE / name).read_bytes())
    for name in ("kind", *_PROGRAMS):
        digest.update(str(binaries.path_of(name)).encode())
    return _FOLDER / f"node-{digest.hexdigest()[:12]}.tar"


def ensure() -> tuple[str, Path]:
    """Build the node image unless the cache has it; return its name and its archive."""
    binaries.ensure("kind", *_PROGRAMS)
    found = archive()
    with locked(CACHE / "locks" / "kind-image"):
        if not found.exists():
            _build(found)
    return f"{images.PREFIX}/node:dev", found


def required() -> list[str]:
    """The images that kubeadm asks for."""
    kubeadm = binaries.ensure("kubeadm")["kubeadm"]
    version = f"--kubernetes-version={binaries.KUBERNETES.version}"
    return run([kubeadm, "config", "images", "list", version]).split()


def _build(archive: Path) -> None:
    say("kind: building the node image ...")
    began = time.monotonic()
    context = _FOLDER / "context"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(binaries.module_folder(binaries.KIND) / "images/base/files", context / "files")
    run(["chmod", "-R", "u+w", context])
    for name in _RECIPE:
        (context / name).parent.mkdir(exist_ok=True)
        shutil.copy(HERE / name, context / name)
    (context / "bin").mkdir()
    for name, path in binaries.ensure(*_PROGRAMS).items():
        (context / "bin" / name).hardlink_to(path)
    (context / "version").write_text(binaries.KUBERNETES.version)
    (context / "store").mkdir()
    dockerfile = context / "Dockerfile"
    wanted = {name.rpartition("/")[2].partition(":")[0]: name for name in required()}
    wanted["pause"] = _PAUSE
    cni = context / "manifests" / "default-cni.yaml"
    cni.write_text(cni.read_text().replace("KUBE_PROXY_IMAGE", wanted["kube-proxy"]))
    words = []
    for target, name in wanted.items():
        image = Image(target, dockerfile, (dockerfile,))
        part = _FOLDER / f"part-{target}.tar"
        part.unlink(missing_ok=True)
        images.build_into(CACHE / "storage", image, part)
        words += [str(part), image.name, name]
    programs = binaries.ensure("containerd", "ctr")
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    unshare += ["sh", "-euc", _IMPORT]
    run([*unshare, context / "store", programs["containerd"], programs["ctr"], *words])
    for part in _FOLDER.glob("part-*.tar"):
        part.unlink()
    for old in _FOLDER.glob("node-*.tar"):
        old.unlink()
    images.build_into(CACHE / "storage", Image("node", dockerfile, (dockerfile,)), archive)
    shutil.rmtree(context)
    size = archive.stat().st_size / 2**20
    say(f"kind: built the node image in {time.monotonic() - began:.0f} s ({size:.0f} MiB)")
