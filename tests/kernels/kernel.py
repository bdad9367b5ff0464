"""Other kernels than this machine's: Debian's packages, unpacked into the cache, not installed."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.paths import CACHE
from tests.cluster.run import locked, run, say
from tests.kernels import packages

_PLACE = CACHE / "kernels"


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
        """The files of these modules and of all that they need, in the order of loading.

        What is built into this kernel has none.
        """
        top = self.folder / "lib/modules" / self.release
        needed: dict[str, list[str]] = {}
        for line in (top / "modules.dep").read_text().splitlines():
            path, _, others = line.partition(":")
            # A module's line names all that it needs, the last to load first.
            needed[_module_name(path)] = [*reversed(others.split()), path]
        for path in (top / "modules.builtin").read_text().splitlines():
            needed.setdefault(_module_name(path), [])
        return [top / path for path in dict.fromkeys(p for name in names for p in needed[name])]


def _module_name(path: str) -> str:
    return Path(path).name.partition(".")[0]


def debian(release: str, flavour: str, architecture: str) -> Kernel:
    """The kernel of a Debian release, from where this machine gets its own packages.

    Flavours are Debian's, as in `linux-image-FLAVOUR`.
    """
    kernel = Kernel(_PLACE / f"{release}-{flavour}")
    with locked(CACHE / "locks" / "kernels"):
        if not kernel.folder.exists():
            _fetch(release, flavour, architecture, kernel.folder)
    return kernel


def _fetch(release: str, flavour: str, architecture: str, folder: Path) -> None:
    say(f"fetching the {flavour} kernel of Debian {release} ...")
    scratch = _PLACE / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    with packages.lists(release, architecture) as environment:
        asked = ["apt-cache", "depends", "--important", f"linux-image-{flavour}"]
        depends = run(asked, env=environment)
        package = next(
            word
            for word in depends.split()
            if word.startswith("linux-image-") and word[12].isdigit()
        )
        run(["apt-get", "download", package], cwd=scratch, env=environment)
    run(["dpkg-deb", "-x", next(scratch.glob("*.deb")), scratch / "root"])
    kernel = Kernel(scratch / "root")
    run(["depmod", "-b", kernel.folder, kernel.release])
    kernel.folder.rename(folder)
    shutil.rmtree(scratch)
