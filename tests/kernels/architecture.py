"""The processors for which the tests can be emulated."""

from dataclasses import dataclass

from tests.cluster.run import ClusterError


@dataclass(frozen=True)
class Architecture:
    """One of Debian's architectures, and how an emulator becomes a machine of it."""

    name: str
    """As Debian calls it."""
    machine: str
    """As the kernel calls it: what `uname -m` says."""
    emulator: tuple[str, ...]
    console: str
    options: str = ""
    """More for the kernel's command line."""


ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture(
            "amd64",
            "x86_64",
            # `max` has page tables of five levels, and SMAP, which cost an emulator a third more.
            ("qemu-system-x86_64", "-cpu", "Nehalem"),
            "ttyS0",
            # On a busy machine the kernel would find that its timer doesn't tick, and panic.
            "no_timer_check",
        ),
        # `max` has pointer authentication, of which an emulator makes most of its work.
        Architecture(
            "arm64",
            "aarch64",
            ("qemu-system-aarch64", "-machine", "virt", "-cpu", "neoverse-n1"),
            "ttyAMA0",
        ),
    )
}


def named(name: str) -> Architecture:
    """Raises ClusterError for one that can't be emulated."""
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ClusterError(f"the architecture {name!r} is none of those that run here: {known}")
    return ARCHITECTURES[name]
