"""What `kubectl nat64 test` runs in its pods, in the lab's pod, through the real translator."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nat64_operator.kubectl import connectivity, connectivity_verdicts, disruption
from nat64_operator.kubectl.checks import Result
from nat64_operator.kubectl.connectivity import Node, Wish
from nat64_operator.kubectl.probe_pods import PROBE, RUN_PROBE
from tests.lab.node import wait_for
from tests.lab.topology import HTTP_PORT, NODE_V4, PREFIX, SERVER, SERVER_V4, Line, line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

ENV = {**os.environ, "PROBE": PROBE.read_text()}
DENIED = "203.0.113.64/26"
GATEWAY = {"spec": {"prefix": str(PREFIX), "policy": {"deniedDestinations": [DENIED]}}}
NODE = Node("node1", [GATEWAY], addresses=[str(NODE_V4)])
WISH = Wish(host=str(SERVER_V4), port=HTTP_PORT, skip=frozenset({"exempt", "dual-stack"}))


def ask(lab: Line, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lab.pod.sysctl(net__ipv4__ping_group_range="0 2147483647")
    said = lab.pod.run(sys.executable, "-c", RUN_PROBE, "ask", json.dumps(requests), env=ENV)
    found: list[dict[str, Any]] = json.loads(said)
    return found


def judged(lab: Line, wish: Wish = WISH) -> dict[str, tuple[Result, str]]:
    """Results and texts by check."""
    requests = connectivity.requests(NODE, wish)
    answers = dict(zip(requests, ask(lab, list(requests.values())), strict=True))
    steps = list(
        connectivity_verdicts.judge(NODE, wish, answers, lambda: ("stops there", "do that"))
    )
    assert {step.name for step in steps} >= {"pod", "tcp", "udp", "ping", "pmtu", "denied", "node"}
    found: dict[str, tuple[Result, str]] = {}
    for step in steps:
        if step.name not in found or step.result is Result.STOP:
            found[step.name] = (step.result, step.text)
    return found


@pytest.fixture
def nat64(lab: Line) -> Iterator[Translator]:
    config: dict[str, Any] = {"prefix": str(PREFIX), "policy": {"deniedDestinations": [DENIED]}}
    with translator(lab.node, **config) as running:
        yield running


def test_every_check_passes_where_all_is_well(lab: Line, nat64: Translator) -> None:
    found = judged(lab)
    assert {name for name, (result, _) in found.items() if result is not Result.OK} == set(), found
    assert "closed" in found["udp"][1], "the server has no DNS: its ICMP error came back"
    assert found["pmtu"][1].startswith("1500 octets")


# The probe, in a pod where the first thing that it waits for is that IPv4 comes, or doesn't.
_LATE = """
import os, subprocess, sys
probe = {'__name__': 'probe'}
exec(compile(os.environ["PROBE"], "probe", "exec"), probe)
if len(sys.argv) > 3:
    probe["time"].sleep = lambda _: subprocess.run(
        ["ip", "addr", "add", f"{sys.argv[1]}/32", "dev", "lo"], check=True)
print(probe["answer"]({"do": "tcp", "host": sys.argv[1], "port": int(sys.argv[2]),
                       "timeout": 30 if len(sys.argv) > 3 else 0.5, "family": 4})["error"])
"""


def test_ipv4_that_comes_a_moment_after_the_pod_is_waited_for(lab: Line) -> None:
    """As a CLAT may; and not for ever."""
    run = (sys.executable, "-c", _LATE, "192.0.2.77", "9")
    assert lab.pod.run(*run, env=ENV) == "Network is unreachable\n"
    assert lab.pod.run(*run, "comes", env=ENV) == "Connection refused\n"
    lab.pod.ip("addr del 192.0.2.77/32 dev lo")


def test_a_path_with_a_smaller_mtu_is_learnt(tmp_path: Path) -> None:
    with line(path_mtu=1400) as lab, translator(lab.node, prefix=str(PREFIX)):
        result, text = judged(lab)["pmtu"]
        assert (result, text) == (
            Result.OK,
            "1420 octets went there and back; 1500 were too long, and the pod was told so",
        )


def test_a_black_hole_for_long_packets_is_found(lab: Line, nat64: Translator) -> None:
    rules = "table ip hole { chain f { type filter hook forward priority 0; %s }; }"
    lab.router.run("nft", rules % "meta length > 1400 drop;")
    found = judged(lab)
    assert found["ping"][0] is Result.OK
    assert found["pmtu"][0] is Result.STOP
    assert "no error tells the pod so" in found["pmtu"][1]


def test_a_cni_that_drops_fragments_of_pings_is_no_black_hole(lab: Line, nat64: Translator) -> None:
    """As Cilium does."""
    rules = "table ip6 cni { chain i { type filter hook prerouting priority -450; %s }; }"
    lab.pod.run("nft", rules % "exthdr frag exists drop;")
    found = judged(lab)
    assert found["ping"][0] is Result.OK
    assert found["pmtu"][0] is Result.NOTE
    assert "answers come in fragments" in found["pmtu"][1]


def test_without_a_translator_each_way_fails_with_words(lab: Line) -> None:
    found = judged(lab)
    for name in ("tcp", "ping"):
        assert found[name][0] is Result.STOP
        assert re.search(r"no answer|[Uu]nreachable|No route", found[name][1]), found[name]
    assert found["denied"][0] is Result.OK, "what can't be reached at all can't be reached"


def test_a_destination_that_answers_although_it_is_denied_is_found(lab: Line) -> None:
    """The gateway says that it denies; the translator was never told."""
    lab.internet.ip("addr add 203.0.113.65/24 dev router0")
    with translator(lab.node, prefix=str(PREFIX)):
        result, text = judged(lab)["denied"]
    assert result is Result.STOP
    assert text == "203.0.113.65 takes the connection: packets get there"


@contextmanager
def flows(lab: Line, tmp_path: Path, silence: float) -> Iterator[Any]:
    """Flows from the pod, and what they report; the file is the pod's own /tmp."""
    given = disruption.flows(str(SERVER), HTTP_PORT, 3, tls=False)
    given |= {"silence": silence, "period": 0.2}
    report = tmp_path / "flows.json"
    program = RUN_PROBE.replace("exec(", "__name__='probe'; exec(", 1)
    program += f"; RESULT=Path({str(report)!r}); main(['flows', {json.dumps(given)!r}])"
    process = subprocess.Popen(
        lab.pod.command(sys.executable, "-c", program), env=ENV, stderr=subprocess.PIPE, text=True
    )

    def read() -> Any:
        return json.loads(report.read_text()) if report.exists() else {"flows": [{"answers": 0}]}

    try:
        wait_for("flows", lambda: disruption.established(read()))
        yield read
    finally:
        process.kill()
        process.wait()


def test_flows_outlive_an_agent_and_are_counted_whole(
    lab: Line, nat64: Translator, tmp_path: Path
) -> None:
    with flows(lab, tmp_path, silence=20) as read:
        before = read()
        nat64.kill()
        ended = read()["now"]
        wait_for("an answer on each flow", lambda: disruption.settled(read(), ended))
        found = disruption.summary({"node1": before}, {"node1": read()})
    assert (found["flows"], found["brokenFlows"], found["failedConnections"]) == (3, 0, 0)
    assert found["closedByServer"] == 0, "they are the same connections all the time"
    assert found["requests"] >= 3
    assert found["newConnections"] >= 1


def test_flows_that_break_are_counted_with_the_reason(
    lab: Line, nat64: Translator, tmp_path: Path
) -> None:
    with flows(lab, tmp_path, silence=2) as read:
        before = read()
        lab.router.run(
            "nft",
            "table ip cut { chain f { type filter hook forward priority 0; "
            f"ip saddr {SERVER_V4} drop; }}; }}",
        )
        wait_for("broken flows", lambda: all(f["broken"] for f in read()["flows"]))
        found = disruption.summary({"node1": before}, {"node1": read()})
    assert found["brokenFlows"] >= 3
    assert {each["why"] for node in found["nodes"] for each in node["broken"]} == {"no answer"}
    [section] = disruption.sections(found)
    assert section.steps[0].result is Result.STOP
