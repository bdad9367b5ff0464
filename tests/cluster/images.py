"""Container images without a registry: debootstrap makes the base, buildah the rest.

An image is named by what went into it: the tar in the cache carries a hash of its inputs, and
nothing is built or imported twice. How this machine reaches its package indexes is lent to a build
and is in no image.
"""

import ast
import contextlib
import functools
import hashlib
import json
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import archive as tars
from tests.cluster import binaries
from tests.cluster.node import Node
from tests.cluster.paths import CACHE, HERE, REPO
from tests.cluster.run import ClusterError, locked, run, say

# Without a host's name before them, containerd would look for these in a public registry.
PREFIX = "localhost/nat64-operator"
# Where the bills of materials of the product's images are put beside the build.
BILLS = REPO / "build" / "sbom"
_STORAGE = CACHE / "storage"
_BUILD_CONFIG = "/run/build-config"
# Seconds for which another process may still want to import an archive.
_IN_USE = 600
_NOT_IN_BASE = (
    *("etc/apt/sources.list", "etc/hostname", "etc/resolv.conf", "var/cache/apt"),
    *("var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/info", "usr/share/locale"),
    "usr/share/man",
)


@dataclass(frozen=True)
class Image:
    """A target of a Dockerfile, and the files that it is made from."""

    target: str
    dockerfile: Path
    inputs: tuple[Path, ...]
    # Tagged by what went into it, so that a changed one is another image to Kubernetes and rolls
    # out; the others have a tag that manifests can name.
    tagged_by_hash: bool = False
    # As Debian calls it, where it isn't this machine's own.
    architecture: str = ""

    @property
    def tag(self) -> str:
        return _hash(self) if self.tagged_by_hash else "dev"

    @property
    def name(self) -> str:
        return f"{PREFIX}/{self.kind}:{self.tag}"

    @property
    def kind(self) -> str:
        """What tells it from others at the same time, but not from later ones."""
        return f"{self.target}.{self.architecture}" if self.architecture else self.target


_PRODUCT_INPUTS = tuple(
    REPO / name
    for name in (
        *("Dockerfile", ".dockerignore", "Makefile", "README.md", "LICENSE", "pyproject.toml"),
        *("requirements", "scripts/image-root", "scripts/image-wheels", "scripts/sbom.py"),
        *("crds", "operator", "dataplane"),
    )
)
PRODUCT = tuple(
    Image(target, REPO / "Dockerfile", _PRODUCT_INPUTS, tagged_by_hash=True)
    for target in ("operator", "dataplane")
)


def equipment() -> tuple[Image, ...]:
    """The images that every cluster needs."""
    dockerfile = HERE / "Dockerfile"
    coredns = binaries.ensure("coredns")["coredns"]
    return (
        Image("pause", dockerfile, (dockerfile,)),
        Image("client", dockerfile, (dockerfile,)),
        Image("coredns", dockerfile, (dockerfile, coredns)),
    )


def ensure(images: Iterable[Image]) -> dict[Image, Path]:
    """Build those whose inputs changed; return the archive of each."""
    archives = {}
    for image in images:
        archive = CACHE / "images" / f"{image.kind}-{_hash(image)}.tar"
        if not archive.exists():
            with locked(CACHE / "locks" / "images"):
                if not archive.exists():
                    _build(image, archive)
        archives[image] = archive
        if image in PRODUCT:
            _write_bill(image, archive)
    return archives


def load(node: Node, archives: dict[Image, Path]) -> None:
    """Import into a node's containerd those that it does not have yet."""
    for image, archive in archives.items():
        # The name of what was imported last outlives no node.
        mark = node.folder / f"image-{image.target}"
        if not mark.exists() or mark.read_text() != archive.name:
            node.ctr("images", "import", "--local", str(archive))
            mark.write_text(archive.name)


@functools.cache
def _hash(image: Image) -> str:
    """Once in a process: an image keeps its name where someone edits the tree meanwhile."""
    digest = hashlib.sha256(_base_name().encode())
    for top in image.inputs:
        for path in sorted(_files(top)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(top.parent)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _files(top: Path) -> list[Path]:
    """The files that .dockerignore lets through."""
    if top.is_file():
        return [top]
    found = (path for path in top.rglob("*") if path.is_file())
    return [path for path in found if path.suffix != ".o" and "__pycache__" not in path.parts]


def _build(image: Image, archive: Path) -> None:
    say(f"building the image {image.name} ...")
    began = time.monotonic()
    _base()
    build_into(_STORAGE, image, archive)
    for old in archive.parent.glob(f"{image.kind}-*.tar"):
        if old.stat().st_mtime < time.time() - _IN_USE:
            old.unlink()
    size = archive.stat().st_size / 2**20
    say(f"built {image.name} in {time.monotonic() - began:.0f} s ({size:.0f} MiB)")


def _write_bill(image: Image, archive: Path) -> None:
    bill = BILLS / f"{image.target}.cdx.json"
    if not bill.exists() or bill.stat().st_mtime < archive.stat().st_mtime:
        BILLS.mkdir(parents=True, exist_ok=True)
        bill.write_bytes(tars.read(archive, f"usr/share/sbom/{bill.name}"))


def build_into(storage: Path, image: Image, archive: Path) -> None:
    """Build an image with what a storage has of the same steps already, and write its archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(storage) as folder:
        context = image.dockerfile.parent
        if image.dockerfile.parent == HERE:  # only what the image is made from
            context = folder / "context"
            context.mkdir()
            for path in image.inputs:
                shutil.copy(path, context)
        options = _lend_package_indexes(folder / "build-config")
        options += ["--build-arg", f"BASE={_base_name()}", "--target", image.target]
        options += ["--file", str(image.dockerfile), "--tag", image.name]
        if image.architecture:
            options += ["--platform", f"linux/{image.architecture}"]
            # Which Debian 12's buildah doesn't set by itself.
            options += ["--build-arg", f"BUILDPLATFORM=linux/{own_architecture()}"]
        # Every build of the same input is the same image, to the last bit.
        options += ["--timestamp", "0", "--layers", "--isolation=chroot", "--pull-never"]
        _buildah("build", *options, str(context), storage=storage)
    unfinished = archive.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    _buildah("push", image.name, f"docker-archive:{unfinished}:{image.name}", storage=storage)
    unfinished.rename(archive)


def own_architecture() -> str:
    """This machine's, as Debian calls it."""
    return run(["dpkg", "--print-architecture"]).strip()


def lend_base(storage: Path) -> None:
    """Give another storage the image that all others are built on."""
    with _scratch(storage) as folder:
        _buildah("push", _base(), f"oci-archive:{folder}/base.tar:{_base_name()}")
        _buildah("pull", f"oci-archive:{folder}/base.tar:{_base_name()}", storage=storage)


def _base() -> str:
    """A minimal Debian of this machine's own release, from where this machine gets its packages."""
    name = _base_name()
    if _buildah("images", "--quiet", "--filter", f"reference={name}").strip():
        return name
    release, uri = _release(), _package_sources()[0][0]
    say(f"making the base image from Debian {release} with debootstrap ...")
    with _scratch() as folder:
        root = folder / "root"
        # It mounts things, which are not to outlive it.
        run(["unshare", "--mount", "debootstrap", "--variant=minbase", release, root, uri])
        # No service is to start in an image, and no image is to know this machine's mirror.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        for path in (root / name for name in _NOT_IN_BASE):
            if path.is_dir():
                shutil.rmtree(path)
                path.mkdir()
            else:
                path.unlink(missing_ok=True)
        context = folder / "context"
        context.mkdir()
        with tarfile.open(context / "root.tar", "w") as tar:
            tar.add(root, arcname=".", filter=lambda member: None if member.isdev() else member)
        (context / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
        _buildah("build", "--tag", name, str(context))
    return name


@contextlib.contextmanager
def _scratch(storage: Path = _STORAGE) -> Iterator[Path]:
    """An empty folder that goes afterwards, or before the next build if this one is killed."""
    folder = storage / "scratch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def _base_name() -> str:
    recipe = hashlib.sha256(" ".join(_NOT_IN_BASE).encode()).hexdigest()[:8]
    return f"{PREFIX}/base:{_release()}-{recipe}"


def _release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    facts = dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)
    if facts["ID"] != "debian":
        raise ClusterError(f"images are made from Debian, and this machine runs {facts['ID']}")
    return facts["VERSION_CODENAME"]


def _package_sources() -> list[tuple[str, ...]]:
    """Where this machine's apt gets Debian itself from: address, release, component."""
    fields = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    lines = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).split("\n")
    found = [line.split("|") for line in lines if line.startswith("Debian|")]
    ours = [(n, u, r, c) for _, n, u, r, c in found if n.startswith(_release()) and c == "main"]
    if not ours:
        raise ClusterError("apt knows no Debian package lists: run `apt-get update`")
    return [source[1:] for source in sorted(ours)]  # the release before its updates


def _lend_package_indexes(folder: Path) -> list[str]:
    """Copy apt's and pip's configuration for the time of a build; return buildah's options."""
    etc = folder / "apt"
    etc.mkdir(parents=True)
    for name in ("apt.conf.d", "auth.conf.d", "preferences.d", "trusted.gpg.d"):
        if (Path("/etc/apt") / name).is_dir():
            shutil.copytree(Path("/etc/apt") / name, etc / name)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources = [f"deb [signed-by={keyring}] {u} {r} {c}\n" for u, r, c in _package_sources()]
    (etc / "sources.list").write_text("".join(sources))
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    settings = [f'Dir::Etc "{_BUILD_CONFIG}/apt";']
    if bundle.exists():
        shutil.copy(bundle, folder / "ca.crt")
        settings.append(f'Acquire::https::CaInfo "{_BUILD_CONFIG}/ca.crt";')
    (folder / "apt.conf").write_text("\n".join([*settings, ""]))
    (folder / "pip.conf").write_text("\n".join(["[global]", *_pip_settings(folder), ""]))
    for path in (folder, *folder.rglob("*")):  # apt reads as a user of its own
        path.chmod(0o755 if path.is_dir() else 0o644)
    return [
        *("--volume", f"{folder}:{_BUILD_CONFIG}:ro"),
        *("--build-arg", f"APT_CONFIG={_BUILD_CONFIG}/apt.conf"),
        *("--build-arg", f"PIP_CONFIG_FILE={_BUILD_CONFIG}/pip.conf"),
    ]


def _pip_settings(folder: Path) -> list[str]:
    """Pip's settings from all its files and variables; the files they name go along."""
    settings = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        key, _, quoted = line.partition("=")
        value = str(ast.literal_eval(quoted))
        if Path(value).exists():
            copy = folder / f"pip-{key.rpartition('.')[2]}"
            if Path(value).is_dir():
                shutil.copytree(value, copy, dirs_exist_ok=True)
            else:
                shutil.copy(value, copy)
            value = f"{_BUILD_CONFIG}/{copy.name}"
        settings[key.rpartition(".")[2]] = value
    return [f"{key} = {value}" for key, value in settings.items()]


def _buildah(*args: str, storage: Path = _STORAGE) -> str:
    """Run buildah with its mounts in a namespace of its own."""
    storage.mkdir(parents=True, exist_ok=True)
    policy = storage / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    places = [f"--root={storage}/root", f"--runroot={storage}/run", "--storage-driver=overlay"]
    if args[0] in {"build", "pull", "push"}:
        args = (args[0], "--signature-policy", str(policy), *args[1:])
    return run(["unshare", "--mount", "buildah", *places, *args])
