"""`nat64-dns64 explain` tells a person how a name is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from nat64_dataplane.dns64 import cli
from tests.dns64.conftest import StartUpstream
from tests.dns64.sidecar import free_port
from tests.dns64.upstreams import Zone

ZONE = Zone.of("v4.example. 300 IN A 198.51.100.7", "v6.example. 300 IN AAAA 2001:db8::1")


def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str], to: object, *args: str) -> str:
    path = tmp_path / "Corefile"
    path.write_text(
        f". {{\ndns64 64:ff9b:1::/96\nforward . {to} {{\nread_timeout 200ms\n"
        "max_connect_attempts 1\n}\n}\n"
    )
    cli.main(["explain", *args, "--corefile", str(path)])
    return capsys.readouterr().out


def test_a_synthesized_answer_step_by_step(
    upstream: StartUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = explain(tmp_path, capsys, upstream(ZONE), "v4.example").splitlines()
    told = [line for line in lines if not line.startswith("  try ")]
    assert told == [
        "question     v4.example. AAAA",
        "server       dns://:53, zones .",
        "client       [::1]: allow",
        "dns64        on, prefix 64:ff9b:1::/96",
        "asked        v4.example. AAAA: real AAAA records come first (section 5.1)",
        "  reply      NOERROR, no records",
        "  reply      SOA of example. with TTL 900",
        "asked        v4.example. A: no usable AAAA: are there A records? (section 5.1.6)",
        "  reply      v4.example. 300 IN A 198.51.100.7",
        "rule         no AAAA but A records: the answer is synthesized (RFC 6147 section 5.1.7)",
        "answer       NOERROR",
        "             v4.example. 300 IN AAAA 64:ff9b:1::c633:6407",
    ]


def test_why_there_is_no_synthesis(
    upstream: StartUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    up = upstream(ZONE)
    assert "off for IPv4 clients" in explain(
        tmp_path, capsys, up, "v4.example", "--client", "10.0.0.1"
    )
    assert "REFUSED" in explain(tmp_path, capsys, up, "v4.example", "--client", "2001:db8::1")
    assert "CD is set" in explain(tmp_path, capsys, up, "v4.example", "--cd")
    assert "real AAAA records" in explain(tmp_path, capsys, up, "v6.example")


def test_an_upstream_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = explain(tmp_path, capsys, f"[::1]:{free_port()}", "v4.example")
    assert "Connection refused" in told
    assert "answer       SERVFAIL, no records" in told


def test_a_bad_name_or_type_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not explain(tmp_path, capsys, "::1", "a..b")
    explain(tmp_path, capsys, "::1", "v4.example", "--type", "NONE-SUCH")
