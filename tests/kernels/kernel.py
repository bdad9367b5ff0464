"""Other kernels than this machine's: Debian's packages, unpacked into the cache, not installed."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.paths import CACHE
from tests.cluster.run import ClusterError, locked, run, say

_PLACE = CACHE / "kernels"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    folder: Path

    @property
    def release(self) -> str:
        """What `uname -r` says once it runs."""
        return next((self.folder / "lib/modules").iterdir()).name

    @property
    def image(self) -> Path:
        """What an emulator boots."""
        return self.folder / "boot" / f"vmlinuz-{self.release}"

    def modules(self, names: Iterable[str]) -> list[Path]:
        """The files of these modules and of all that they need, in the order of loading."""
        top = self.folder / "lib/modules" / self.release
        needed: dict[str, list[str]] = {}
        for line in (top / "modules.dep").read_text().splitlines():
            path, _, others = line.partition(":")
            # A module's line names all that it needs, the last to load first.
            needed[Path(path).stem] = [*reversed(others.split()), path]
        return [top / path for path in dict.fromkeys(p for name in names for p in needed[name])]


def debian(release: str) -> Kernel:
    """The kernel of a Debian release, from where this machine gets its own packages."""
    kernel = Kernel(_PLACE / release)
    with locked(CACHE / "locks" / "kernels"):
        if not kernel.folder.exists():
            _fetch(release, kernel.folder)
    return kernel


def _fetch(release: str, folder: Path) -> None:
    say(f"fetching the kernel of Debian {release} ...")
    scratch = _PLACE / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "lists").mkdir(parents=True)
    sources = scratch / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {release} main\n")
    # Lists of its own, because this machine may run another release; else as apt is set up here.
    apart = (
        f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={scratch}/lists",
        "Dir::Cache::pkgcache=",
        "Dir::Cache::srcpkgcache=",
        "APT::Sandbox::User=root",
    )
    options = [word for setting in apart for word in ("-o", setting)]
    run(["apt-get", *options, "update"])
    depends = run(["apt-cache", *options, "depends", "--important", "linux-image-amd64"])
    package = next(w for w in depends.split() if w.startswith("linux-image-") and w[12].isdigit())
    run(["apt-get", *options, "download", package], cwd=scratch)
    run(["dpkg-deb", "-x", next(scratch.glob("*.deb")), scratch / "root"])
    kernel = Kernel(scratch / "root")
    run(["depmod", "-b", kernel.folder, kernel.release])
    kernel.folder.rename(folder)
    shutil.rmtree(scratch)


def _mirror() -> str:
    lines = run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"]
    ).splitlines()
    for origin, label, component, uri in (line.split("|") for line in lines):
        if (origin, label, component) == ("Debian", "Debian", "main"):
            return uri
    raise ClusterError("apt knows no Debian package lists: run `apt-get update`")
