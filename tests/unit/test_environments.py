"""docs/cni.md says what the runs found, and every environment has been tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import environments
from tests.environments import results
from tests.environments.catalogue import ENVIRONMENTS

JUNIT = """\
<testsuites><testsuite>
<testcase name="test_good"/>
<testcase name="test_bad"><failure message="AssertionError: lost&#10;more">long</failure></testcase>
<testcase name="test_apart"><skipped message="has no policies"/></testcase>
</testsuite></testsuites>
"""


def test_the_page_is_what_the_results_say() -> None:
    text = environments.TARGET.read_text()
    table = environments.render(results.read())
    assert text == environments.page(text, table), "run `python -m scripts.environments`"


def test_every_environment_has_a_result_or_a_reason() -> None:
    assert set(ENVIRONMENTS) - set(results.read()) == set()


def test_a_report_becomes_a_result_with_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(JUNIT)
    monkeypatch.setattr("tests.environments.environment.Environment.versions", lambda _: {"a": "1"})
    environment = ENVIRONMENTS["bridge"]
    found = results.from_junit(environment, report, "2026-01-02", 61.4)
    assert found == {
        "environment": "bridge",
        "what": environment.says,
        "date": "2026-01-02",
        "seconds": 61,
        "versions": {"a": "1"},
        "passed": ["test_good"],
        "failed": {"test_bad": "AssertionError: lost"},
        "skipped": {"test_apart": "has no policies"},
    }
    table = environments.render({"bridge": found})
    assert "| **1 of 2 failed** | 2026-01-02 | a 1 |" in table
    assert "- `bridge` fails `test_bad`: AssertionError: lost" in table
    assert "- `test_apart` is left out by `bridge`: has no policies" in table


@pytest.mark.parametrize(("ending", "reason"), [("", "no test ran"), ("too slow", "too slow")])
def test_a_run_without_a_report_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, reason: str
) -> None:
    monkeypatch.setattr("tests.environments.environment.Environment.versions", lambda _: {})
    found = results.from_junit(ENVIRONMENTS["bridge"], tmp_path / "none", "2026-01-02", 1, ending)
    assert found["failed"] == {"the run": reason}


def test_what_did_not_run_says_why() -> None:
    result = {"what": "x", "date": "2026-01-02", "versions": {}, "not_run": "no such module"}
    table = environments.render({"calico": result})
    assert "| `calico` | x | not run | 2026-01-02 |  |" in table
    assert "- `calico` did not run: no such module" in table


def test_what_did_not_run_is_left_out_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    (tmp_path / "ptp.json").write_text('{"not_run": "no time"}')
    (tmp_path / "bridge.json").write_text('{"passed": []}')
    assert results.not_run() == {"ptp"}


def test_a_bounded_run_reckons_with_what_must_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.cluster.binaries.path_of", lambda name: tmp_path / name)
    environment = ENVIRONMENTS["cilium"]
    assert environment.needs() == environment.seconds + environment.build_seconds
    for program in environment.setup.pod_network.programs:
        (tmp_path / program).touch()
    assert environment.needs() == environment.seconds
