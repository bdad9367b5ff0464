"""Takes the CLAT out of every pod of this node, and leaves nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nat64_dataplane.clat import keeper, programs
from nat64_dataplane.clat.namespace import NotANamespaceError
from nat64_dataplane.clat.run_directory import RunDir

_LOCK_SECONDS = 10.0  # an agent that has just been told to stop


class Removal:
    """Does every step, also after one that failed; `failures` says which did."""

    def __init__(self, instance: str, mounts: Path, pins: Path, run_dir: Path) -> None:
        self.instance = instance
        self.mounts = mounts
        self.pins = pins
        self.root = run_dir
        self.failures: list[str] = []

    def run(self) -> Iterator[str]:
        """Yield a line for each thing removed. Raises BusyError while an agent runs."""
        run_dir = RunDir(self.root, self.instance)
        with run_dir.locked(wait=_LOCK_SECONDS):
            for path in self._paths():
                try:
                    if keeper.undo(path, self.instance):
                        yield f"CLAT of the pod with {path}"
                except (NotANamespaceError, FileNotFoundError):
                    continue
                except OSError as error:
                    self.failures.append(f"{path}: {error}")
            if programs.remove_all(self.pins, self.instance):
                yield f"pins under {self.pins / self.instance}"
            run_dir.remove()

    def _paths(self) -> list[Path]:
        try:
            return sorted(self.mounts.iterdir())
        except OSError:
            return []
