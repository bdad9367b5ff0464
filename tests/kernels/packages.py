"""Debian's packages of another release or architecture, from where this machine gets its own."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.cluster.run import ClusterError, run

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@contextlib.contextmanager
def lists(release: str, architecture: str) -> Iterator[Mapping[str, str]]:
    """The environment in which apt knows the packages of that release, and no others.

    Its lists are fetched into a folder that goes afterwards; else apt is as it is set up here.
    """
    with tempfile.TemporaryDirectory(prefix="nat64-apt-") as scratch:
        place = Path(scratch)
        (place / "lists/partial").mkdir(parents=True)
        (place / "sources.list").write_text(
            f"deb [signed-by={_KEYRING}] {_mirror()} {release} main\n"
        )
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",
            "Dir::Etc::sourcelist": f"{place}/sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": f"{place}/lists",
            "Dir::Cache::pkgcache": f"{place}/packages",
            "Dir::Cache::srcpkgcache": f"{place}/sources",
        }
        config = place / "apt.conf"
        config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
        environment = {**os.environ, "APT_CONFIG": str(config)}
        run(["apt-get", "update"], env=environment)
        yield environment


def _mirror() -> str:
    lines = run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"]
    ).splitlines()
    for origin, label, component, uri in (line.split("|") for line in lines):
        if (origin, label, component) == ("Debian", "Debian", "main"):
            return uri
    raise ClusterError("apt knows no Debian package lists: run `apt-get update`")
