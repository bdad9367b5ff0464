"""docs/cni.md says what the runs found, and every environment has been tried."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import pytest

from scripts import environments
from tests.cluster.run import ClusterError
from tests.environments import results
from tests.environments.__main__ import run_again, run_within
from tests.environments.catalogue import ENVIRONMENTS

JUNIT = """\
<testsuites><testsuite>
<testcase name="test_good"/>
<testcase name="test_bad"><failure message="AssertionError: lost&#10;more">long</failure></testcase>
<testcase name="test_apart"><skipped message="has no policies"/></testcase>
<testcase time="0.000"/>
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


@pytest.mark.parametrize("written", [None, "", JUNIT[:-20]])
@pytest.mark.parametrize(("ending", "reason"), [("", "no test ran"), ("too slow", "too slow")])
def test_a_run_without_a_whole_report_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, reason: str, written: str | None
) -> None:
    monkeypatch.setattr("tests.environments.environment.Environment.versions", lambda _: {})
    report = tmp_path / "report.xml"
    if written is not None:
        report.write_text(written)
    found = results.from_junit(ENVIRONMENTS["bridge"], report, "2026-01-02", 1, ending)
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


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Cilium's programs are."""
    monkeypatch.setattr("tests.cluster.binaries.path_of", lambda name: tmp_path / name)
    for program in ENVIRONMENTS["cilium"].setup.pod_network.programs:
        (tmp_path / program).touch()
    return tmp_path


def test_a_bounded_run_builds_nothing(built: Path) -> None:
    (built / "cilium-agent").unlink()
    assert run_within(ENVIRONMENTS["cilium"], 9999) == ({}, "the cache lacks cilium-agent")


def test_a_bounded_run_leaves_out_what_takes_too_long(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", built)
    (built / "cilium.json").write_text('{"seconds": 300}')
    why = "may need 330 s, 329 s are left"
    assert run_within(ENVIRONMENTS["cilium"], 329) == ({}, why)
    (built / "cilium.json").write_text('{"not_run": "no time"}')
    assert run_within(ENVIRONMENTS["cilium"], -1) == ({}, "may need 990 s, 0 s are left")


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("failed", "found", "why"),
    [
        ({}, {}, ""),
        ({"the run": "it was ended after 9 s"}, {}, "it was ended after 9 s"),
        ({"test_a": "lost", "the run": "too long"}, {"test_a": "lost"}, "too long"),
        ({"test_a": "lost"}, {"test_a": "lost"}, ""),
    ],
)
def test_only_a_failed_test_fails_a_bounded_run(
    monkeypatch: pytest.MonkeyPatch, failed: dict[str, str], found: dict[str, str], why: str
) -> None:
    result = {"passed": [], "failed": failed}
    monkeypatch.setattr("tests.environments.__main__.run", lambda *_: copy.deepcopy(result))
    assert run_within(ENVIRONMENTS["cilium"], 9999) == (found, why)


LOST = {"test_a[x]": "lost", "test_a[y]": "lost", "test_b": "refused"}


@pytest.mark.usefixtures("built")
def test_what_fails_runs_once_more_alone_and_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = {"test_a[y]": "lost again", "the run": "it was ended after 9 s"}
    runs: list[dict[str, object]] = [
        {"passed": ["test_c"], "failed": dict(LOST)},
        {"passed": ["test_a[x]"], "failed": again},
    ]
    asked: list[str | None] = []

    def run(_: object, expression: str | None, left: float) -> dict[str, object]:
        asked.append(expression)
        assert 0 < left < 9999
        return runs[len(asked) - 1]

    monkeypatch.setattr("tests.environments.__main__.run", run)
    assert run_within(ENVIRONMENTS["cilium"], 9999) == ({"test_a[y]": "lost"}, "")
    assert asked == [None, "test_a or test_b"]
    said = capsys.readouterr().err
    assert "passed when run again: test_a[x]" in said
    assert "not counted: test_b: it was ended after 9 s" in said


def _no_cluster(*_: object) -> None:
    raise ClusterError("no space")


@pytest.mark.parametrize(("left", "why"), [(0, "no time is left"), (60, "no space")])
def test_what_failed_on_one_cluster_only_is_said_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], left: float, why: str
) -> None:
    monkeypatch.setattr("tests.environments.__main__.run", _no_cluster)
    assert run_again(ENVIRONMENTS["cilium"], LOST, left) == {}
    said = capsys.readouterr().err
    assert "test_b failed: refused" in said
    assert f"did not run again, so it is not counted: {why}" in said


@pytest.mark.parametrize(
    "trouble",
    [
        ClusterError("no space"),
        OSError("no space"),
        subprocess.CalledProcessError(1, "mount"),
        subprocess.TimeoutExpired("docker", 60),
    ],
)
@pytest.mark.usefixtures("built")
def test_a_machine_in_trouble_fails_no_bounded_run(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def nothing(*_: object) -> None:
        raise trouble

    monkeypatch.setattr("tests.environments.__main__.run", nothing)
    assert run_within(ENVIRONMENTS["cilium"], 9999) == ({}, str(trouble))
    assert run_again(ENVIRONMENTS["cilium"], LOST, 60) == {}
