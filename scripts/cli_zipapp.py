"""Writes `kubectl nat64` as one file that needs only Python, and its krew manifest.

    python -m scripts.cli_zipapp [FOLDER] [--url URL]

FOLDER (build/cli) gets `kubectl-nat64`, an archive of it for krew, and krew's `nat64.yaml`, which
says that the archive is at URL. Some packages have compiled modules, which can't be loaded from a
zip: the file unpacks itself once, into the user's cache. So it is for the kind of machine, and the
minor version of Python, on which it was made; on others it says so.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import platform
import re
import stat
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parent.parent
NAME = "kubectl-nat64"
URL = "https://nat64-operator.example/releases"
LEFT_OUT = {"aiohttp", "aiohttp-retry"}
"""Of the Kubernetes client's asynchronous half, which is not used."""
SKIPPED = re.compile(r"(^|/)(__pycache__|tests?)/|^kubernetes/(aio|docs|e2e_test)/|\.(o|pyi)$")
SOURCES = {"operator": "nat64_operator", "dataplane": "nat64_dataplane"}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

MAIN = """\
import os, shutil, sys, sysconfig, tempfile, zipfile
MADE_FOR, CONTENT = {made_for!r}, {content!r}
here = (sys.implementation.cache_tag, sysconfig.get_platform())
if here != MADE_FOR:
    sys.exit("kubectl nat64: this file is for %s on %s, and this is %s on %s" % (*MADE_FOR, *here))
cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
root = os.path.join(cache, "kubectl-nat64")
folder = os.path.join(root, CONTENT)
if not os.path.isdir(folder):
    os.makedirs(root, mode=0o700, exist_ok=True)
    new = tempfile.mkdtemp(dir=root)
    with zipfile.ZipFile(sys.path[0]) as archive:
        archive.extractall(new)
    try:
        os.rename(new, folder)
    except OSError:  # another process was faster
        shutil.rmtree(new)
if os.stat(folder).st_uid != os.getuid():
    sys.exit("kubectl nat64: %s belongs to somebody else" % folder)
sys.path[0] = folder
from nat64_operator.kubectl.cli import main
sys.exit(main())
"""


def main() -> None:
    """Write all three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=REPO / "build" / "cli")
    parser.add_argument("--url", default=URL, help="where the archive will be [%(default)s]")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    program = options.folder / NAME
    program.write_bytes(build())
    program.chmod(0o755)
    version, system, arch = own_version(), *machine()
    archive = options.folder / f"{NAME}-{version}-{system}-{arch}.tar.gz"
    archive.write_bytes(packed(program))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    url = f"{options.url}/v{version}/{archive.name}"
    (options.folder / "nat64.yaml").write_text(krew(version, system, arch, url, digest))
    print(f"{program}: {program.stat().st_size >> 20} MiB for {system}/{arch}")


def build() -> bytes:
    """The file: a zip with a first line that names its interpreter. The same bytes each time."""
    files = dict(sorted(contents()))
    digest = hashlib.sha256()
    for name, raw in files.items():
        digest.update(f"{name}\0{len(raw)}\0".encode() + raw)
    made_for = (sys.implementation.cache_tag, sysconfig.get_platform())
    start = MAIN.format(made_for=made_for, content=digest.hexdigest()[:16])
    out = io.BytesIO()
    out.write(f"#!/usr/bin/env python{sys.version_info[0]}.{sys.version_info[1]}\n".encode())
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in {"__main__.py": start.encode(), **files}.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, raw)
    return out.getvalue()


def contents() -> Iterator[tuple[str, bytes]]:
    """Our packages and those of the extra `cli`, as the environment has them."""
    for folder, package in SOURCES.items():
        for path in (REPO / folder / package).rglob("*.py"):
            yield path.relative_to(REPO / folder).as_posix(), path.read_bytes()
    for name in sorted(closure("nat64-operator", "cli")):
        for file in metadata.distribution(name).files or ():
            name_in = file.as_posix()
            if not name_in.startswith("..") and not SKIPPED.search(name_in):
                yield name_in, Path(str(file.locate())).read_bytes()
    yield (
        f"nat64_operator-{own_version()}.dist-info/METADATA",
        f"Metadata-Version: 2.1\nName: nat64-operator\nVersion: {own_version()}\n".encode(),
    )


def closure(name: str, extra: str = "") -> set[str]:
    """The packages that one needs, and those that they need."""
    found: set[str] = set()
    waiting = [(name, extra)]
    while waiting:
        one, wanted = waiting.pop()
        for line in metadata.requires(one) or ():
            required, _, marker = line.partition(";")
            matched = re.match(r"[\w.-]+", required.strip())
            assert matched is not None, line
            other = matched.group().lower().replace("_", "-")
            if "extra ==" in marker and not re.search(rf"extra == ['\"]{wanted}['\"]", marker):
                continue
            if other in found or other in LEFT_OUT or not installed(other):
                continue
            found.add(other)
            waiting.append((other, ""))
    return found


def installed(name: str) -> bool:
    """Whether the environment has a package: markers leave out what other systems need."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def own_version() -> str:
    """The version of the tree."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def machine() -> tuple[str, str]:
    """System and architecture in Go's words, as krew has them."""
    arch = platform.machine()
    return platform.system().lower(), ARCHITECTURES.get(arch, arch)


def packed(program: Path) -> bytes:
    """The archive that krew unpacks: the program and the licence."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, name in ((program, NAME), (REPO / "LICENSE", "LICENSE")):
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, stat.S_IMODE(path.stat().st_mode)
            with path.open("rb") as file:
                tar.addfile(info, file)
    return out.getvalue()


def krew(version: str, system: str, arch: str, url: str, digest: str) -> str:
    """krew's manifest for one kind of machine; a release joins those of several."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    plugin = {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "nat64"},
        "spec": {
            "version": f"v{version}",
            "homepage": "https://nat64-operator.example",
            "shortDescription": "See what NAT64 and DNS64 do, and why they don't",
            "description": "Shows gateways, sessions and bindings, traces a pod's way to a host, "
            "looks for what is wrong, and tests connectivity. The cluster needs nat64-operator.",
            "caveats": f"It needs Python {python}.",
            "platforms": [
                {
                    "selector": {"matchLabels": {"os": system, "arch": arch}},
                    "uri": url,
                    "sha256": digest,
                    "bin": NAME,
                }
            ],
        },
    }
    return yaml.safe_dump(plugin, sort_keys=False)


if __name__ == "__main__":
    main()
