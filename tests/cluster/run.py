"""Running other programs: quiet when they succeed, all they said when they fail."""

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


class ClusterError(Exception):
    """Something that whoever ran the harness should read; its text says what to do."""


class CommandError(ClusterError):
    """A program that exited with an error."""


def run(
    argv: Sequence[str | Path],
    *,
    input: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    reassure: str = "",
) -> str:
    """Run a program and return its standard output.

    Where it may take minutes, `reassure` is said every now and then, with the time so far.
    """
    words = [str(word) for word in argv]
    # Not everyone who is root has these in the path.
    env = {**(os.environ if env is None else env)}
    env["PATH"] = f"{env.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    with _reassuring(reassure):
        done = subprocess.run(
            words,
            input=input,
            env=env,
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-4000:]
        raise CommandError(f"`{' '.join(words)}` exited {done.returncode}:\n{said}")
    return done.stdout


@contextlib.contextmanager
def _reassuring(text: str, every: float = 30) -> Iterator[None]:
    began, over = time.monotonic(), threading.Event()

    def reassure() -> None:
        while text and not over.wait(every):
            say(f"{text} {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=reassure, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def say(text: str) -> None:
    """Progress for a person, away from the output that a program may want to read."""
    print(text, file=sys.stderr, flush=True)


def wait_for(what: str, ready: Callable[[], bool], timeout: float, every: float = 0.2) -> None:
    """Poll until ready; a command that fails meanwhile counts as not ready."""
    deadline = time.monotonic() + timeout
    why = ""
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except CommandError as error:
            why = f": {error}"
        time.sleep(every)
    raise ClusterError(f"gave up after {timeout:.0f} s waiting for {what}{why}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel drops it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
