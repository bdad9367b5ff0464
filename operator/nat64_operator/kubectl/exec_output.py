"""What the edge returns to the other modules: objects, output of commands, and errors. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from nat64_operator.errors import OperatorError

Json = dict[str, Any]
"""An object as the API server gives it."""


class ClusterError(OperatorError):
    """The API server, or a pod, didn't give an answer. `status` is the HTTP status, 0 if there is
    none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Output(NamedTuple):
    """What a command in a pod printed, and its exit code."""

    stdout: str
    stderr: str
    code: int


_UNKNOWN_TO_ARGPARSE = ("unrecognized arguments", "invalid choice")


def parse_output(pod: str, argv: Iterable[str], output: Output) -> Any:
    """The JSON that a command printed, whatever its exit code. Raises ClusterError."""
    try:
        return json.loads(output.stdout)
    except ValueError:
        said = (output.stderr or output.stdout).strip().splitlines()
        if said and any(word in said[-1] for word in _UNKNOWN_TO_ARGPARSE):
            raise ClusterError(
                f"pod {pod}: its agent does not know `{' '.join(argv)}`: it is of another version "
                "than this program; `kubectl nat64 version` shows both"
            ) from None
        what = said[-1] if said else f"it printed nothing (exit code {output.code})"
        raise ClusterError(f"pod {pod}: {' '.join(argv)}: {what}") from None
