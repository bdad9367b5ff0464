"""The pages that speak of tests and counters speak of those that exist."""

from __future__ import annotations

import re
from pathlib import Path

from nat64_dataplane.translator.counters import DROP_REASONS

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_compliance_page_names_exists() -> None:
    page = (ROOT / "docs/rfc-compliance.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)\(", sources, re.MULTILINE))
    assert len(named) > 70
    assert not named - defined
    for path in re.findall(r"`(tests/[\w/.]+)`", page):
        assert (ROOT / path).exists(), path


def test_a_row_that_says_yes_names_a_test() -> None:
    for line in (ROOT / "docs/rfc-compliance.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[1].startswith("yes"):
            assert "test_" in cells[2], line


def test_every_drop_reason_is_on_the_dataplane_page() -> None:
    page = (ROOT / "docs/dataplane.md").read_text()
    for reason, text in DROP_REASONS.items():
        assert f"| `{reason}` | {text} |" in page
