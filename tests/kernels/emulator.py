"""One run of tests on another kernel, in an emulator that needs nothing of this machine's."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.paths import CACHE, REPO
from tests.cluster.run import ClusterError, locked, run
from tests.kernels import initramfs
from tests.kernels.kernel import Kernel

_MEMORY_MIB = 2048
# A panic restarts the machine at once, and -no-reboot makes that the emulator's end. On a busy
# machine the kernel would find that its timer doesn't tick, and panic.
_COMMAND_LINE = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off no_timer_check"


def test(kernel: Kernel, arguments: Sequence[str], seconds: float, place: Path) -> int:
    """Boot, run pytest with these arguments, switch off; return 0 where the tests passed.

    `place` then has `console.log` and `junit.xml`. Raises ClusterError without a result.
    """
    place.mkdir(parents=True, exist_ok=True)
    console = place / "console.log"
    with (
        # One after the other: they write to the same place.
        locked(CACHE / "locks" / "emulator"),
        tempfile.TemporaryDirectory(prefix="nat64-kernels-") as scratch,
    ):
        console.write_text("")
        result = Path(scratch, "result")
        result.mkdir()
        (result / "arguments").write_text("\0".join(arguments))
        archive = Path(scratch, "initramfs")
        job = {"MODULES": str(kernel.folder.resolve() / "lib/modules"), "REPO": str(REPO)}
        archive.write_bytes(initramfs.build(kernel, {**job, "PYTHON": sys.executable}))
        try:
            _emulate(kernel, archive, result, console, seconds)
            code = int((result / "exit").read_text())
            (place / "junit.xml").write_bytes((result / "junit.xml").read_bytes())
        except subprocess.TimeoutExpired as error:
            raise _failure(kernel, f"did not end within {seconds:.0f} s", console) from error
        except (OSError, ValueError) as error:
            raise _failure(kernel, "stopped before the tests had a result", console) from error
        if (ran := (result / "kernel").read_text().strip()) != kernel.release:
            raise ClusterError(f"the tests ran on Linux {ran}, not on {kernel.release}")
    return code


def _emulate(kernel: Kernel, archive: Path, result: Path, console: Path, seconds: float) -> None:
    machine: list[str | Path] = [
        *("-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", str(_MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", f"file:{console}"),
        *("-kernel", kernel.image, "-initrd", archive, "-append", _COMMAND_LINE),
        *("-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"),
        *("-virtfs", f"local,path={result},mount_tag=result,security_model=none"),
    ]
    run(
        ["setpriv", "--pdeathsig", "KILL", "--", "nice", "qemu-system-x86_64", *machine],
        timeout=seconds,
        reassure=f"testing on Linux {kernel.release}, see {console}:",
    )


def _failure(kernel: Kernel, what: str, console: Path) -> ClusterError:
    end = "\n".join(console.read_text(errors="replace").splitlines()[-40:])
    return ClusterError(f"Linux {kernel.release} {what}; the end of its console:\n{end}")
