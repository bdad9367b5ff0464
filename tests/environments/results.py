"""What a run found, as a file that docs/cni.md is made from."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests.cluster.paths import REPO
from tests.environments.environment import Environment

THE_RUN = "the run"
"""In the place of a test's name, where the run as a whole is what failed."""
FOLDER = REPO / "docs" / "results" / "environments"


def from_junit(
    environment: Environment, report: Path, date: str, seconds: float, ending: str = ""
) -> dict[str, Any]:
    """A result from pytest's report; `ending` says why there is none, or why it is not whole."""
    result: dict[str, Any] = {
        "environment": environment.name,
        "what": environment.says,
        "date": date,
        "seconds": round(seconds),
        "versions": environment.versions(),
        "passed": [],
        "failed": {},
        "skipped": {},
    }
    for case in _cases(report):
        name = case.get("name", "")
        problems = [*case.findall("failure"), *case.findall("error")]
        skips = case.findall("skipped")
        if problems:
            result["failed"][name] = _first_line(problems[0].get("message", ""))
        elif skips:
            result["skipped"][name] = _first_line(skips[0].get("message", ""))
        else:
            result["passed"].append(name)
    if ending:
        result["failed"][THE_RUN] = ending
    elif not result["passed"] and not result["failed"]:
        result["failed"][THE_RUN] = "no test ran"
    return result


def _cases(report: Path) -> list[ET.Element]:
    """None of a report that pytest was ended before it had written. A test in which it was ended
    has no name there, and no result.
    """
    try:
        return [case for case in ET.parse(report).iter("testcase") if case.get("name")]
    except (FileNotFoundError, ET.ParseError):
        return []


def write(result: dict[str, Any]) -> Path:
    """Keep it in the repo."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{result['environment']}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def usual_seconds(name: str) -> float | None:
    """How long the run took that is kept; None where none is."""
    seconds: float | None = read().get(name, {}).get("seconds")
    return seconds


def read() -> dict[str, dict[str, Any]]:
    """All that is kept, by the environments' names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def not_run() -> set[str]:
    """The names of those whose result is a reason for not having run."""
    return {name for name, result in read().items() if "not_run" in result}


def _first_line(message: str) -> str:
    text = re.sub(r"\s+", " ", message.strip().partition("\n")[0])
    return text if len(text) <= 300 else text[:299] + "…"
