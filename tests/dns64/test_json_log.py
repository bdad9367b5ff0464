"""Logs as JSON, by the variable that the chart sets, from the programs themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dns64.sidecar import Sidecar

COREFILE = """\
.:PORT {
    bind ::1
    log
    forward . [::1]:1
}
"""


def test_every_line_of_the_sidecar_is_an_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAT64_LOG_FORMAT", "json")
    with Sidecar(tmp_path, COREFILE) as sidecar:
        sidecar.ask("a.example", "A")
        text = sidecar.log_path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert any("running Corefile" in line["message"] for line in lines)
    assert any("a.example. udp" in line["message"] for line in lines), "the query log as well"


@pytest.mark.parametrize("module", ["dns64", "translator"])
def test_another_word_is_refused(module: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", f"nat64_dataplane.{module}.cli", "check"]
    argv += [{"dns64": "--corefile", "translator": "--config"}[module], str(tmp_path / "x")]
    env = {**os.environ, "NAT64_LOG_FORMAT": "xml"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.strip().endswith("NAT64_LOG_FORMAT 'xml': there are text, json")
