"""The one error of this package: what is wrong with a Corefile, and on which line."""

from __future__ import annotations

from nat64_dataplane.errors import ConfigError


class CorefileError(ConfigError):
    """A Corefile was refused. `file` and `line` (from 1) say where, `problem` says what."""

    def __init__(self, file: str, line: int, problem: str) -> None:
        super().__init__(f"{file}:{line}: {problem}")
        self.file = file
        self.line = line
        self.problem = problem
