"""A check in steps. Each step went well, has something to know, or is where the check ends."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, NamedTuple

from nat64_operator.kubectl.output import Paint, Tone, wrapped


class Result(enum.Enum):
    """The result of a step, or of a check."""

    OK = "ok"
    NOTE = "note"
    STOP = "stop"


_MARKS = {
    Result.OK: ("✓", Tone.GOOD),
    Result.NOTE: ("!", Tone.CAREFUL),
    Result.STOP: ("✗", Tone.BAD),
}


class Step(NamedTuple):
    """One step, in a sentence; if the check ends there, with a remedy."""

    name: str
    result: Result
    text: str
    remedy: str = ""
    details: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As `-o json` prints it."""
        return {
            "name": self.name,
            "result": self.result.value,
            "text": self.text,
            "remedy": self.remedy or None,
            "details": list(self.details),
        }


def stop(name: str, text: str, remedy: str, details: Iterable[str] = ()) -> Step:
    """A step that is the last."""
    return Step(name, Result.STOP, text, remedy, tuple(details))


def ok(name: str, text: str, details: Iterable[str] = ()) -> Step:
    """A step that went well."""
    return Step(name, Result.OK, text, "", tuple(details))


def note(name: str, text: str, remedy: str = "", details: Iterable[str] = ()) -> Step:
    """A step that went well, with something to know."""
    return Step(name, Result.NOTE, text, remedy, tuple(details))


def end(steps: Iterable[Step]) -> Step | None:
    """The step where it stops; None if it doesn't."""
    return next((step for step in steps if step.result is Result.STOP), None)


def render(steps: Iterable[Step], paint: Paint) -> str:
    """For people."""
    lines = []
    for step in steps:
        mark, tone = _MARKS[step.result]
        lines.append(f"{paint(mark, tone)} {step.name:<13} {wrapped(step.text, 16)}")
        lines += [f"{'':16}{detail}" for detail in step.details]
        if step.remedy:
            lines.append(f"{'':16}{paint('try:', Tone.TITLE)} {wrapped(step.remedy, 21)}")
    return "\n".join(lines)
