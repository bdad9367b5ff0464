"""`kubectl nat64 test`: what its pods are asked to do, and what their answers mean."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from nat64_operator.kubectl import connectivity, connectivity_verdicts, disruption
from nat64_operator.kubectl.checks import Result, Step
from nat64_operator.kubectl.connectivity import CLUSTER_NAME, Node, Wish
from nat64_operator.kubectl.exec_output import ClusterError, Output
from nat64_operator.kubectl.pod_probe import IN_FRAGMENTS, WHOLE
from nat64_operator.kubectl.probe_pods import (
    PROBE,
    RUN_PROBE,
    Image,
    Pods,
    manifest,
    operators_image,
    running,
    why_not,
)

POLICY = {"spec": {"exemptZones": ["cluster.local", "corp.example."]}}
GATEWAY = {
    "spec": {
        "prefix": "64:ff9b:1::/96",
        "policy": {
            "deniedDestinations": ["198.51.100.0/24"],
            "allowedDestinations": ["127.0.0.0/8"],
        },
    }
}
NODE = Node("node1", [GATEWAY], [POLICY], ["192.0.2.11"])
WISH = Wish("v4.example", 80, dual_stack="dual.example")
OURS = "64:ff9b:1::c000:201"
TRACE = ("policy: it may not be reached", "change the policy")
GOOD: dict[str, dict[str, Any]] = {
    "self": {"six": "fd00::5", "four": None},
    "dns64": {"six": [OURS], "four": ["192.0.2.1"], "error": None},
    "tcp": {"peer": OURS, "milliseconds": 3, "error": None},
    "udp": {"peer": OURS, "how": "an answer", "milliseconds": 3, "error": None},
    "ping": {"milliseconds": 3, "size": 56, "first": 1500, "error": None},
    "pmtu": {"milliseconds": 3, "size": 1500, "first": 1500, "error": None},
    "dual-stack": {"six": ["2001:db8::1"], "four": ["192.0.2.1"], "error": None},
    "exempt cluster": {"six": ["fd00:1::1"], "four": [], "error": None},
    "exempt corp.example": {"six": [], "four": ["192.0.2.7"], "error": None},
    "denied 169.254.169.254": {"error": "Permission denied", "code": "EACCES"},
    "denied 198.51.100.1": {"error": "no answer"},
    "node 192.0.2.11": {"error": "Permission denied", "code": "EACCES"},
}


def judge(**changed: Any) -> dict[str, Step]:
    answers = {**GOOD, **changed}
    steps = connectivity_verdicts.judge(NODE, WISH, answers, lambda: TRACE)
    return {step.name: step for step in sorted(steps, key=lambda s: s.result is Result.STOP)}


def test_what_a_node_is_asked_is_what_is_judged() -> None:
    assert set(connectivity.requests(NODE, WISH)) == set(GOOD)
    steps = judge()
    assert [name for name, step in steps.items() if step.result is not Result.OK] == []
    assert set(steps) == {"pod", *connectivity.CHECKS} - {"literal"}


def test_where_pods_have_a_clat_a_literal_is_tried_over_an_ipv4_socket() -> None:
    spec = {**GATEWAY["spec"], "clat": {"mode": "Pods"}}
    node = Node("node1", [{"spec": spec}])
    asked = {"do": "tcp", "port": 80, "family": 4}
    assert connectivity.requests(node, WISH)["literal"] == {**asked, "host": "v4.example."}
    there = connectivity.requests(node, Wish("192.0.2.1", 80))
    assert there["literal"] == {**asked, "host": "192.0.2.1"}
    assert "literal" not in connectivity.requests(node, Wish("2001:db8::1", 80))
    good = judge(
        self={"six": "fd00::5", "four": "192.0.0.2"},
        literal={"peer": "192.0.2.1", "milliseconds": 3, "error": None},
    )
    assert (good["pod"].result, good["literal"].result) == (Result.OK, Result.OK)
    bad = judge(literal={"error": "Network is unreachable"})["literal"]
    assert bad.result is Result.STOP
    assert "Network is unreachable" in bad.text


def test_every_check_can_be_left_out_and_an_unknown_one_is_refused() -> None:
    for name in connectivity.CHECKS:
        wish = Wish("v4.example", 80, dual_stack="d.example", skip=frozenset({name}))
        asked = connectivity.requests(NODE, wish)
        assert not [key for key in asked if key.split()[0] == name]
        answers = {key: GOOD[key] for key in asked}
        steps = connectivity_verdicts.judge(NODE, wish, answers, lambda: TRACE)
        assert name not in {step.name for step in steps}
    with pytest.raises(ClusterError, match="--skip pings: there are dns64, tcp"):
        connectivity.check_skip(["pings"])


@pytest.mark.parametrize(
    ("key", "answer", "name", "says"),
    [
        ("self", {"six": None, "four": None}, "pod", "no IPv6 address"),
        ("dns64", {"six": [], "four": ["192.0.2.1"], "error": None}, "dns64", "no address under"),
        ("dns64", {"six": ["2001:db8::9"], "four": [], "error": None}, "dns64", "IPv6 of its own"),
        ("dns64", {"error": "the name does not resolve: x"}, "dns64", "does not resolve"),
        ("tcp", {"error": "no answer"}, "tcp", "no connection to v4.example port 80: no answer"),
        ("tcp", {"peer": "2001:db8::9", "error": None}, "tcp", "not under a prefix"),
        ("udp", {"error": "Network is unreachable"}, "udp", "unreachable"),
        ("ping", {"error": "no answer"}, "ping", "no answer"),
        ("pmtu", {"error": "no answer", "size": 1500}, "pmtu", "1500 octets are lost"),
        ("dual-stack", {"six": [OURS], "four": [], "error": None}, "dual-stack", "left out"),
        ("dual-stack", {"six": [], "four": [], "error": None}, "dual-stack", "no IPv6 address"),
        ("exempt corp.example", {"six": [OURS], "four": [], "error": None}, "exempt", OURS),
        ("exempt cluster", {"error": "no"}, "exempt", CLUSTER_NAME),
        ("denied 198.51.100.1", {"peer": "x", "error": None}, "denied", "takes the connection"),
        ("node 192.0.2.11", {"error": "x", "code": "ECONNREFUSED"}, "node", "refuses"),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy(
    key: str, answer: dict[str, Any], name: str, says: str
) -> None:
    step = judge(**{key: answer})[name]
    assert step.result is Result.STOP
    assert says in step.text
    assert step.remedy


def test_where_shorter_pings_are_answered_the_answers_may_be_what_is_lost() -> None:
    """A host that knows of a smaller path MTU back to the pool answers in fragments."""
    lost = {"error": "no answer", "size": 1500, "back": [WHOLE, IN_FRAGMENTS]}
    assert "counts them as icmp_fragment" in " ".join(judge(pmtu=lost)["pmtu"].details)
    assert judge(pmtu={**lost, "back": []})["pmtu"].details == ()


def test_a_failed_connection_is_explained_by_a_trace() -> None:
    step = judge(tcp={"error": "no answer"})["tcp"]
    assert step.remedy == TRACE[1]
    assert step.details == (f"trace: {TRACE[0]}",)


def test_an_address_is_a_target_too_and_needs_no_name() -> None:
    asked = connectivity.requests(NODE, Wish("198.51.100.10", 80))
    assert "dns64" not in asked
    assert asked["tcp"]["host"] == "64:ff9b:1::c633:640a"


def test_silence_of_a_port_that_nobody_named_proves_nothing() -> None:
    assert judge(udp={"error": "no answer"})["udp"].result is Result.NOTE


def test_a_pod_is_restricted_and_ends_by_itself() -> None:
    pod = manifest("a", "node1", Image("i", ("pull",)), None, 600)
    spec = pod["spec"]
    assert spec["activeDeadlineSeconds"] == 600
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    [container] = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert yaml.safe_load(yaml.safe_dump(pod)) == pod


def test_the_probe_needs_nothing_but_python() -> None:
    """-I: no site-packages of the user, no PYTHONPATH; -S: none at all."""
    asked = json.dumps([{"do": "self"}, {"do": "tcp", "host": "::1", "port": 1}])
    argv = [sys.executable, "-I", "-S", "-c", RUN_PROBE, "ask", asked]
    done = subprocess.run(argv, env={"PROBE": PROBE.read_text()}, capture_output=True, check=True)
    _, refused = json.loads(done.stdout)
    assert refused["code"] == "ECONNREFUSED"


class Server:
    """Pods as an API server keeps them; `refuses` is the number of the creation that fails."""

    def __init__(self, refuses: int = -1) -> None:
        self.pods: dict[str, Any] = {}
        self._refuses, self._made = refuses, itertools.count()

    def get(self, path: str, **_: str) -> Any:
        return self.pods[path.rpartition("/")[2]]

    def items(self, path: str, **_: str) -> list[Any]:  # noqa: ARG002
        return []

    def create(self, path: str, body: Any) -> Any:  # noqa: ARG002
        if next(self._made) == self._refuses:
            raise ClusterError("exceeded quota")
        self.pods[body["metadata"]["name"]] = {**body, "status": {"phase": "Running"}}
        return body

    def delete(self, path: str) -> None:
        self.pods.pop(path.rpartition("/")[2], None)

    def exec(self, *_: Any) -> Output:
        return Output("[]", "", 0)


def test_pods_are_deleted_where_a_later_one_is_refused() -> None:
    server = Server(refuses=1)
    said: list[str] = []
    pods = Pods(server, "nat64-system", Image("i"))
    with pytest.raises(ClusterError, match="quota"), running(pods, said.append):
        pods.start(["node1", "node2"])
    assert (server.pods, said) == ({}, [])


def test_without_an_operator_the_image_must_be_named() -> None:
    with pytest.raises(ClusterError, match="--image"):
        operators_image(Server(), "elsewhere")


def test_a_pod_that_does_not_run_says_why() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    status = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}
    assert why_not({"status": status}) == "ImagePullBackOff: no such image"
    assert why_not({"status": {"phase": "Failed", "reason": "Evicted"}}) == "Evicted"
    assert why_not({"status": {"phase": "Running"}}) == ""


def flow(answers: int, last: float, *broken: float, closed: int = 0) -> dict[str, Any]:
    entries = [{"at": at, "why": "no answer"} for at in broken]
    return {"answers": answers, "last": last, "closed": closed, "broken": entries}


def test_only_what_breaks_meanwhile_is_counted() -> None:
    before = {"now": 100, "flows": [flow(5, 99, 50)], "opened": {"ok": 3, "failed": []}}
    failed = [{"at": 110, "why": "Connection refused"}]
    after = {
        "now": 200,
        "flows": [flow(9, 199, 50, 120, closed=1)],
        "opened": {"ok": 8, "failed": failed},
    }
    found = disruption.summary({"node1": before}, {"node1": after})
    assert {key: found[key] for key in found if key != "nodes"} == {
        "flows": 1,
        "brokenFlows": 1,
        "closedByServer": 1,
        "requests": 4,
        "newConnections": 5,
        "failedConnections": 1,
    }
    [section] = disruption.sections(found)
    results = {step.name: step for step in section.steps if step.result is Result.STOP}
    assert results["flows"].details == ("after 20 s: no answer",)
    assert results["new"].details == ("after 10 s: Connection refused",)


def test_a_server_that_keeps_nothing_open_proves_nothing() -> None:
    opened = {"ok": 3, "failed": []}
    before = {"now": 100, "flows": [flow(5, 99, closed=5)], "opened": opened}
    after = {"now": 200, "flows": [flow(9, 199, closed=9)], "opened": opened}
    [section] = disruption.sections(disruption.summary({"node1": before}, {"node1": after}))
    assert section.steps[0].result is Result.STOP
    assert "nothing was kept open" in section.steps[0].text


def test_flows_are_waited_for_until_each_was_answered_or_broke() -> None:
    report = {"flows": [flow(1, 120), flow(1, 90, 130)]}
    assert disruption.settled(report, 110)
    assert not disruption.settled(report, 125)
    assert not disruption.established({"flows": [flow(0, 0)]})
