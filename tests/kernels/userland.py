"""An emulated machine's root: this machine's own files, or a Debian of another architecture."""

import hashlib
import os
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.images import own_architecture
from tests.cluster.paths import CACHE, REPO
from tests.cluster.run import locked, run, say
from tests.kernels import packages

_HERE = Path(__file__).parent
_PLACE = CACHE / "kernels"
_LOCK = REPO / "requirements.lock"
# What wheels are for comes with the release.
_RELEASE, _PYTHON, _GLIBC = "bookworm", "3.11", "2.36"
_FOLDERS = ("dev", "proc", "root", "run", "sys", "tmp", "var/tmp")
# What maintainer scripts would write.
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "",
}
_ENVIRONMENT = Path("/opt/nat64")
_SCRIPT = """\
#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""


@dataclass(frozen=True)
class Userland:
    """A root, and the Python that runs the tests in it."""

    root: Path
    python: Path
    has_repo: bool
    """Whether this tree is in it, at the same place as here."""


def ensure(wanted: str) -> Userland:
    """This machine's files for its own architecture; else what is made once, in the cache."""
    if wanted == own_architecture():
        return Userland(Path("/"), Path(sys.executable), has_repo=True)
    python = _ENVIRONMENT / "bin/python"
    root = _PLACE / f"root-{_RELEASE}-{wanted}-{_recipe()}"
    with locked(CACHE / "locks" / "kernels"):
        if not root.exists():
            for old in _PLACE.glob(f"root-{_RELEASE}-{wanted}-*"):
                shutil.rmtree(old)
            _make(wanted, root)
    return Userland(root, python, has_repo=False)


def _recipe() -> str:
    """Changes with whatever goes into a root."""
    parts = (Path(__file__), _HERE / "guest_apt.txt", _LOCK, REPO / "pyproject.toml")
    whole = (*parts, REPO / "scripts/image-root", REPO / "scripts/image-wheels")
    return hashlib.sha256(b"\0".join(part.read_bytes() for part in whole)).hexdigest()[:8]


def _make(wanted: str, root: Path) -> None:
    say(f"making a root of Debian {_RELEASE} for {wanted} ...")
    scratch = _PLACE / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    lines = (_HERE / "guest_apt.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    with packages.lists(_RELEASE, wanted) as environment:
        run(
            [REPO / "scripts/image-root", scratch, "-", wanted, *names],
            env=environment,
            reassure="unpacking packages:",
        )
    for folder in _FOLDERS:
        (scratch / folder).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (scratch / name).write_text(text)
    _make_environment(wanted, scratch)
    if sys.version_info[:2] == tuple(map(int, _PYTHON.split("."))):
        # An emulator would take minutes, each time: it keeps nothing of what it writes.
        compiled = (scratch / f"usr/lib/python{_PYTHON}", scratch / "opt")
        options = ("-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
        prefixes = ("-s", scratch, "-p", "/")
        # Some packages come with files for other Pythons, which don't compile.
        run([sys.executable, "-m", "compileall", *options, *prefixes, *compiled], check=False)
    scratch.rename(root)


def _make_environment(wanted: str, root: Path) -> None:
    """What `make setup` makes of a virtual environment, from wheels of that architecture."""
    top = root / _ENVIRONMENT.relative_to("/")
    modules = top / f"lib/python{_PYTHON}/site-packages"
    modules.mkdir(parents=True)
    # With the pip of this tree's own environment, for that Debian's Python and C library.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "GLIBC": _GLIBC}
    wheels: list[str | Path] = [REPO / "scripts/image-wheels", modules, wanted, _LOCK, "--quiet"]
    wheels += ["--python-version", _PYTHON]
    run(wheels, env=environment, reassure="installing wheels:")
    # An editable install: the tree itself is what is tested.
    (modules / "nat64.pth").write_text(f"{REPO}/operator\n{REPO}/dataplane\n")
    (top / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (top / "bin").mkdir()
    (top / "bin/python").symlink_to("/usr/bin/python3")
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    for name, target in scripts.items():
        module, _, function = target.partition(":")
        script = top / "bin" / name
        python = _ENVIRONMENT / "bin/python"
        script.write_text(_SCRIPT.format(python=python, module=module, function=function))
        script.chmod(0o755)
