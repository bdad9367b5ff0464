"""`kubectl nat64` status, sessions and bib: tables for people, JSON for programs."""

from __future__ import annotations

import io
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from nat64_operator.kubectl import cli, sessions, status
from nat64_operator.kubectl.agents import Agent, Report
from nat64_operator.kubectl.exec_output import ClusterError, Output, parse_output
from nat64_operator.kubectl.output import Cell, Paint, Tone, table

AGENT = Agent("default", "node1", "nat64-system", "nat64-default-abc", "")
PREFIXES = [IPv6Network("64:ff9b:1::/96")]


def pool(protocol: str, used: int, available: int = 100) -> dict[str, Any]:
    return {"address": "192.0.2.1", "protocol": protocol, "used": used, "available": available}


def report(**fields: Any) -> Report:
    data = {"programmed": True, "reason": "Programmed", "sessions": 1, "sessionLimit": 10, **fields}
    return Report(AGENT, [data], "")


def resource(ready: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "reason": "R", "message": "a sentence"}
    nodes = {"summary": "1/1"}
    return {
        "metadata": {"name": "default"},
        "status": {"conditions": [condition], "prefix": "64:ff9b::/96", "nodes": nodes},
    }


def test_status_adds_drops_of_all_nodes() -> None:
    drop = {"reason": "ports_exhausted", "packets": 3, "meaning": "no free port"}
    built = status.build([resource("True")], [], [report(drops=[drop]), report(drops=[drop])])
    assert built["drops"] == [{**drop, "packets": 6}]
    assert status.is_well(built)
    text = status.render(built, Paint(False))
    assert "ports_exhausted  6        no free port" in text
    assert "no policies" in text


def test_status_shows_where_the_prefix_is_advertised() -> None:
    text = status.render(status.build([], [], [report(advertised=["eth1", "lan0"])]), Paint(False))
    assert "ADVERTISED ON" in text
    assert "eth1, lan0" in text
    assert "ADVERTISED" not in status.render(status.build([], [], [report()]), Paint(False))


def test_ports_are_those_of_the_fullest_protocol_over_all_addresses() -> None:
    pools = [pool("tcp", 10), pool("tcp", 10), pool("udp", 30), pool("icmp", 1)]
    assert status.fullest(pools) == (30, 100)
    assert status.fullest([]) == (0, 0)


@pytest.mark.parametrize(
    ("gateways", "reports"),
    [
        ([], []),
        ([resource("False")], []),
        ([{"metadata": {"name": "new"}}], []),
        ([resource("True")], [report(programmed=False)]),
        ([resource("True")], [Report(AGENT, None, "exec: forbidden")]),
    ],
)
def test_anything_that_is_not_ready_is_not_well(
    gateways: list[dict[str, Any]], reports: list[Report]
) -> None:
    built = status.build(gateways, [], reports)
    assert not status.is_well(built)
    assert status.render(built, Paint(False))


def test_a_node_that_cannot_be_asked_says_why() -> None:
    built = status.build([], [], [Report(AGENT, None, "exec: forbidden")])
    assert built["nodes"][0]["reason"] == "exec: forbidden"
    assert "exec: forbidden" in status.render(built, Paint(False))


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("198.51.100.10", "198.51.100.10/32"),
        ("198.51.100.0/24", "198.51.100.0/24"),
        ("64:ff9b:1::c633:640a", "198.51.100.10/32"),
    ],
)
def test_a_destination_is_read(text: str, network: str) -> None:
    assert sessions.destination(text, PREFIXES) == IPv4Network(network)


@pytest.mark.parametrize("text", ["2001:db8::1", "a.example", "198.51.100.1/24", ""])
def test_a_destination_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(sessions.DestinationError, match="destination"):
        sessions.destination(text, PREFIXES)


def test_entries_get_their_node_and_pod() -> None:
    pods = [
        {
            "metadata": {"namespace": "a", "name": "web"},
            "spec": {},
            "status": {"podIPs": [{"ip": "fd00:0::5"}]},
        },
        {
            "metadata": {"namespace": "a", "name": "host"},
            "spec": {"hostNetwork": True},
            "status": {"podIPs": [{"ip": "fd00::1"}]},
        },
    ]
    entries = [
        {"protocol": "tcp", "client": "[fd00::5]:4000", "remote": "198.51.100.1:80"},
        {"protocol": "tcp", "client": "[fd00::1]:4000", "remote": "203.0.113.1:80"},
    ]
    reports = [Report(AGENT, entries, ""), Report(AGENT, None, "gone")]
    rows = sessions.merge(reports, sessions.owners(pods))
    assert [(row["node"], row["pod"]) for row in rows] == [("node1", "a/web"), ("node1", None)]
    text = sessions.render(rows, sessions.SESSION_COLUMNS, Paint(False))
    assert text.splitlines()[1].split()[:3] == ["node1", "a/web", "tcp"]
    assert text.splitlines()[2].split()[1] == "-"
    held = sessions.clients_with(IPv4Network("198.51.100.0/24"), reports)
    assert held == {("tcp", "[fd00::5]:4000")}


def test_a_table_is_aligned_whatever_its_colours() -> None:
    rows = [("a", Cell("yes", Tone.GOOD), "z"), ("long", Cell("no", Tone.BAD), "z")]
    plain = table(("N", "OK", "X"), rows, Paint(False))
    assert plain == "N     OK   X\na     yes  z\nlong  no   z"
    coloured = table(("N", "OK", "X"), rows, Paint(True))
    assert "\x1b[32myes\x1b[0m  z" in coloured
    assert "\x1b[31mno\x1b[0m   z" in coloured


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "colours"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_only(
    stream: io.StringIO, environ: dict[str, str], colours: bool
) -> None:
    assert Paint.of(stream, environ).colours is colours


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (Output("", "x\nnat64-translator: no translator on this node\n", 1), "no translator on"),
        (Output("", "", 137), "exit code 137"),
        (Output("Traceback", "", 1), "Traceback"),
    ],
)
def test_a_command_that_printed_no_json_is_quoted(output: Output, says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        parse_output("pod", ("nat64-translator", "bib"), output)


def test_json_counts_whatever_the_exit_code() -> None:
    assert parse_output("pod", ("nat64-translator",), Output("[]", "", 1)) == []


def test_without_a_kubeconfig_it_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "--kubeconfig", "/nonexistent"]) == 2
    assert "kubectl nat64: no cluster" in capsys.readouterr().err
