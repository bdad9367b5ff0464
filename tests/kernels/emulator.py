"""One run of tests on another kernel, in an emulator that needs nothing of this machine's."""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.paths import REPO
from tests.cluster.run import ClusterError, locked, run
from tests.kernels import initramfs
from tests.kernels.architecture import Architecture
from tests.kernels.kernel import Kernel
from tests.kernels.userland import Userland

_MEMORY_MIB = 2048
# A panic restarts the machine at once, and -no-reboot makes that the emulator's end.
_COMMAND_LINE = "quiet panic=-1 oops=panic mitigations=off"
# It yields to whatever else runs. Where the kernel shares its time among sessions (autogroup),
# niceness only counts within one, so an emulator has a session of its own, which is nice.
_YIELDING = (
    *("setsid", "sh", "-c"),
    '{ echo 5 >/proc/self/autogroup; } 2>/dev/null; exec nice "$@"',
    "sh",
)


@dataclass(frozen=True)
class Machine:
    """What is emulated: a processor, a kernel, and what is above it."""

    architecture: Architecture
    kernel: Kernel
    userland: Userland

    def __str__(self) -> str:
        return f"Linux {self.kernel.release}"


def test(machine: Machine, arguments: Sequence[str], seconds: float, place: Path) -> int:
    """Boot, run pytest with these arguments, switch off; return 0 where the tests passed.

    `place` then has `console.log` and `junit.xml`. Raises ClusterError without a result.
    """
    place.mkdir(parents=True, exist_ok=True)
    console = place / "console.log"
    with (
        locked(place / "lock"),
        tempfile.TemporaryDirectory(prefix="nat64-kernels-") as scratch,
    ):
        console.write_text("")
        result = Path(scratch, "result")
        result.mkdir()
        (result / "arguments").write_text("\0".join(arguments))
        archive = Path(scratch, "initramfs")
        archive.write_bytes(initramfs.build(machine.kernel, machine.userland.root, _job(machine)))
        try:
            _emulate(machine, archive, result, console, seconds)
            code = int((result / "exit").read_text())
            (place / "junit.xml").write_bytes((result / "junit.xml").read_bytes())
        except subprocess.TimeoutExpired as error:
            raise _failure(machine, f"did not end within {seconds:.0f} s", console) from error
        except (OSError, ValueError) as error:
            raise _failure(machine, "stopped before the tests had a result", console) from error
        wanted = f"{machine.kernel.release} {machine.architecture.machine}"
        if (ran := (result / "kernel").read_text().strip()) != wanted:
            raise ClusterError(f"the tests ran on Linux {ran}, not on {wanted}")
    return code


def _job(machine: Machine) -> dict[str, str]:
    return {
        "MODULES": str(_modules(machine)),
        "REPO": str(REPO),
        "PYTHON": str(machine.userland.python),
        "SHARED": "no" if machine.userland.has_repo else "yes",
    }


def _modules(machine: Machine) -> Path:
    return machine.kernel.folder.resolve() / "lib/modules"


def _emulate(machine: Machine, archive: Path, result: Path, console: Path, seconds: float) -> None:
    shared = {"root": machine.userland.root}
    if not machine.userland.has_repo:
        shared |= {"tree": REPO, "modules": _modules(machine)}
    common = "security_model=none,readonly=on,multidevs=remap"
    architecture = machine.architecture
    options: list[str | Path] = [
        *("-accel", "tcg", "-smp", "2", "-m", str(_MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", f"file:{console}"),
        *("-kernel", machine.kernel.image, "-initrd", archive),
        *("-append", f"console={architecture.console} {_COMMAND_LINE} {architecture.options}"),
        *("-virtfs", f"local,path={result},mount_tag=result,security_model=none"),
    ]
    for tag, path in shared.items():
        options += ["-virtfs", f"local,path={path},mount_tag={tag},{common}"]
    run(
        ["setpriv", "--pdeathsig", "KILL", "--", *_YIELDING, *architecture.emulator, *options],
        timeout=seconds,
        reassure=f"testing on {machine}, see {console}:",
    )


def _failure(machine: Machine, what: str, console: Path) -> ClusterError:
    end = "\n".join(console.read_text(errors="replace").splitlines()[-40:])
    return ClusterError(f"{machine} {what}; the end of its console:\n{end}")
