"""The pages that speak of tests and counters speak of those that exist."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from nat64_dataplane.dns64.settings import cache_stanza, dns64_stanza, forward_stanza, from_text
from nat64_dataplane.dns64.settings.corefile_settings import FORMS
from nat64_dataplane.translator.datapath.counters import DROP_REASONS
from nat64_operator.api.gateway import Gateway
from nat64_operator.api.policy import PolicySpec
from nat64_operator.render.sidecar_corefile import render_corefile

ROOT = Path(__file__).parents[2]


def defined_tests() -> set[str]:
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return set(re.findall(r"^(?:async )?def (test_\w+)\(", sources, re.MULTILINE))


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading, without its head."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    after = lines[lines.index(heading) + 1 :]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in itertools.takewhile(lambda text: not text.startswith("#"), after)
        if line.startswith("|")
    ]
    return rows[2:]


def words(cell: str) -> list[str]:
    """What a cell has in backquotes."""
    return [found.replace("\\|", "|") for found in re.findall("`([^`]+)`", cell)]


def test_every_test_that_the_compliance_page_names_exists() -> None:
    page = (ROOT / "docs/rfc-compliance.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 70
    assert not named - defined_tests()
    for path in re.findall(r"`(tests/[\w/.]+)`", page):
        assert (ROOT / path).exists(), path


def test_every_row_of_the_dns64_checklist_names_tests_that_exist() -> None:
    rows = table("dns64.md", "## RFC 6147, row by row")
    defined = defined_tests()
    assert len(rows) >= 30
    for row, _, tests in rows:
        named = set(words(tests))
        assert named, f"{row}: no test"
        assert named <= defined, f"{row}: {named - defined}"
        [section] = re.findall(r"^[^(]*\((5[.0-9]*)[,)]", row) or [""]
        cited = {name for name in named if re.match(r"test_[\d_]+_", name)}
        if section:
            start = f"test_{section.replace('.', '_')}_"
            assert all(name.startswith(start) for name in cited), f"{row}: {cited}"


OPTIONS = {
    "### dns64": (dns64_stanza.OPTIONS, "dns64"),
    "### forward": (forward_stanza.OPTIONS, "forward . 192.0.2.1"),
    "### cache": (cache_stanza.OPTIONS, "cache"),
}


@pytest.mark.parametrize("heading", OPTIONS)
def test_every_option_of_the_sidecar_has_an_example_that_it_takes(heading: str) -> None:
    options, stanza = OPTIONS[heading]
    rows = {words(row[0])[0]: words(row[2])[0] for row in table("dns64.md", heading)}
    assert {form.split()[0] for form in rows} == set(options)
    for form, example in rows.items():
        assert example.split()[0] == form.split()[0]
        stale = "serve_stale\n" if "serve_stale_policy" in example else ""
        from_text(f". {{\n{stanza} {{\n{stale}{example}\n}}\n}}")


def test_every_other_stanza_has_an_example_that_the_sidecar_takes() -> None:
    found = table("dns64.md", "### The other stanzas")
    rows = [(words(form)[0], words(example)[0]) for form, _, example in found]
    assert {form.split()[0] for form, _ in rows} == set(FORMS) - {"dns64", "forward", "cache"}
    for form, example in rows:
        assert example.split()[0] == form.split()[0]
        stanza = example.replace("{ ", "{\n").replace(" }", "\n}").replace("; ", "\n")
        from_text(f". {{\n{stanza}\n}}")


def test_the_corefile_on_the_dns64_page_is_what_an_empty_policy_becomes() -> None:
    page = (ROOT / "docs/dns64.md").read_text()
    shown = page[page.index("\n.:6464 {") + 1 :].partition("```")[0]
    made = Gateway.parse({"metadata": {"name": "default"}, "spec": {"prefix": "64:ff9b:1::/96"}})
    upstreams = ["192.0.2.53", "2001:db8::53"]
    text = render_corefile(made.config(), made.ports, PolicySpec(), upstreams)
    assert re.sub(r" +# ours", "", shown) == text
    ours = {line.split()[0] for line in shown.splitlines() if "# ours" in line}
    told = {words(r[0])[0].split()[0] for r in table("dns64.md", "### dns64") if "*ours*" in r[1]}
    assert ours <= told


def test_a_row_that_says_yes_names_a_test() -> None:
    for line in (ROOT / "docs/rfc-compliance.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[1].startswith("yes"):
            assert "test_" in cells[2], line


def test_every_drop_reason_is_asserted_by_a_test_of_the_programs() -> None:
    dataplane = ROOT / "tests/dataplane"
    # only a packet of a real tunnel has an outer source
    paths = (*dataplane.glob("test_program_*"), dataplane / "test_topology_security.py")
    tests = "".join(path.read_text() for path in paths)
    asserted = set(re.findall(r'"(?:dropped_)?(\w+?)(?:_6to4|_4to6)?"', tests))
    assert not DROP_REASONS.keys() - asserted


def test_every_drop_reason_is_on_the_dataplane_page() -> None:
    page = (ROOT / "docs/dataplane.md").read_text()
    for reason, text in DROP_REASONS.items():
        assert f"| `{reason}` | {text} |" in page
