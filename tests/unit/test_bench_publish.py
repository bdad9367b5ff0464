"""Benchmarks write where git doesn't look, and the docs say what the kept results say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.bench import dns64, nat64, publish
from tests.lab.node import ROOT


def test_docs_are_made_of_the_kept_results() -> None:
    for path, text in publish.files().items():
        assert path.read_text() == text, f"{path}: make bench-docs"


@pytest.mark.parametrize("path", [nat64.BUILD, dns64.BUILD, publish.BUILD])
def test_benchmarks_write_to_a_directory_that_git_ignores(path: Path) -> None:
    assert path == ROOT / "build" / "bench"
    subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", str(path / "x.json")], check=True)


def test_results_are_kept_by_name_and_shown(tmp_path: Path) -> None:
    build, kept, page = tmp_path / "build", tmp_path / "kept", tmp_path / "page.md"
    build.mkdir()
    result = json.loads((publish.KEPT / "amd-epyc.nat64.json").read_text())
    result["machine"]["cpu"] = "Some <CPU>"
    (build / "nat64.json").write_text(json.dumps(result))
    page.write_text("before\n<!-- results of nat64 -->\nold\n<!-- end of results -->\nafter\n")
    assert publish.keep("some-cpu", build, kept) == [kept / "some-cpu.nat64.json"]
    written = publish.files(kept, page)
    assert set(written) == {kept / "some-cpu.nat64.svg", page}
    text = written[page]
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    ratio = result["ratios"]["new_flows_per_s"]["nat44"]
    assert f"{ratio:.2f}" in next(line for line in text.splitlines() if "new_flows" in line)
    assert "Some &lt;CPU&gt;" in written[kept / "some-cpu.nat64.svg"]


def test_the_three_measurements_of_rfc_9693_are_shown_in_its_form(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- results of rfc9693 -->\n<!-- end of results -->\n")
    assert "No results are kept yet" in publish.files(tmp_path, page)[page]
    figures = {"median": 2.0, "least": 1.0, "most": 3.0, "runs": [1.0, 2.0, 3.0]}
    gateway = dict.fromkeys(("establishment_per_s", "teardown_per_s", "capacity"), figures)
    result = {
        "machine": {"cpu": "C", "cpus": 2, "kernel": "6", "date": "2026-11-29T0", "commit": "c"},
        "parameters": dict.fromkeys(
            ("connections", "addresses", "source_ports", "destination_ports", "frame_bytes"), "p"
        ),
        "results": {"ours": gateway | {"limit": 4, "tester_rate": 5}},
    }
    (tmp_path / "amd.rfc9693.json").write_text(json.dumps(result))
    row = "| ours | 3 | 2 (1 to 3) | 2 (1 to 3) | 2 (1 to 3) | 4 | 5 |"
    assert row in publish.files(tmp_path, page)[page]


def test_bad_names_and_missing_results_are_refused(tmp_path: Path) -> None:
    for name in ("", "AMD", "../x", "a.b"):
        with pytest.raises(ValueError, match="lower-case letters, digits and hyphens"):
            publish.keep(name, tmp_path, tmp_path)
    with pytest.raises(ValueError, match="has no results"):
        publish.keep("amd", tmp_path, tmp_path)
