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


def corefile(tmp_path: Path, stanzas: str) -> str:
    path = tmp_path / "Corefile"
    path.write_text(f". {{\n{stanzas}\n}}\n")
    return str(path)


def test_each_forward_stanza_that_a_reply_passes_on_to_is_told(
    upstream: StartUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = upstream(Zone.of()), upstream(ZONE)
    path = corefile(
        tmp_path,
        f"dns64 64:ff9b:1::/96\nforward . {first} {{\nnext NXDOMAIN\n}}\nforward . {second}",
    )
    assert cli.main(["explain", "v4.example", "--corefile", path]) == 0
    told = capsys.readouterr().out
    assert told.count("passes the question on to the next forward stanza") == 2
    assert "v4.example. 300 IN AAAA 64:ff9b:1::c633:6407" in told
    assert first.types() == second.types() == ["AAAA", "A"]


def test_what_fails_for_want_of_a_translator(
    upstream: StartUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = tmp_path / "status.json"
    path = corefile(
        tmp_path,
        f"dns64 {{\nexempt v6.example\ntranslator {status} servfail\n}}\n"
        f"forward . {upstream(ZONE)}",
    )
    assert cli.main(["explain", "v4.example", "--corefile", path]) == 1
    told = capsys.readouterr().out
    assert "translator says servfail" in told
    assert "answer       SERVFAIL" in told
    assert "asked" not in told
    assert cli.main(["explain", "v6.example", "--corefile", path]) == 0
    assert cli.main(["explain", "v4.example", "--type", "A", "--corefile", path]) == 0


def test_a_certificate_that_can_not_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = corefile(tmp_path, f"forward . tls://192.0.2.1 {{\ntls {tmp_path}/none.pem\n}}")
    for command in (["explain", "v4.example"], ["run"]):
        assert cli.main([*command, "--corefile", path]) > 0
        assert f"tls {tmp_path}/none.pem: " in capsys.readouterr().err


def test_an_upstream_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = explain(tmp_path, capsys, f"[::1]:{free_port()}", "v4.example")
    assert "Connection refused" in told
    assert "answer       SERVFAIL, no records" in told


def test_a_bad_name_or_type_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not explain(tmp_path, capsys, "::1", "a..b")
    explain(tmp_path, capsys, "::1", "v4.example", "--type", "NONE-SUCH")
