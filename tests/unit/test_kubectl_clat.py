"""The pods' CLAT in `kubectl nat64`: what it counts, finds and follows."""

from typing import Any

import pytest

from nat64_dataplane.clat.plan import LeftAlone
from nat64_operator.kubectl import agents, clat, doctor, status, trace
from nat64_operator.kubectl.agents import Agent, Report
from nat64_operator.kubectl.checks import Result, end
from nat64_operator.kubectl.exec_output import Output
from nat64_operator.kubectl.output import Paint
from tests.unit import test_kubectl_doctor, test_kubectl_trace

AGENT = Agent("default", "node1", "nat64-system", "nat64-default-abc", "", clat=True)
PREFIX = "64:ff9b:1:c1a7::/96"
SET_UP = {
    "netns": "cni-1",
    "state": "SetUp",
    "namespace": "default",
    "name": "web",
    "address": "fd00::5",
}
FAILED = {
    "netns": "cni-2",
    "state": "Failed",
    "namespace": "default",
    "name": "bad",
    "reason": "EPERM",
    "message": "Operation not permitted",
}
ALONE = {
    "netns": "cni-3",
    "state": "LeftAlone",
    "namespace": "default",
    "name": "dual",
    "reason": "has_ipv4",
}


def report(*pods: dict[str, Any], **changes: Any) -> Report:
    counted = {
        kind: [pod for pod in pods if pod["state"] == kind] for kind in ("Failed", "LeftAlone")
    }
    data = {
        "prefix": PREFIX,
        "configHash": "x",
        "ready": True,
        "reason": "Ready",
        "setUp": sum(pod["state"] == "SetUp" for pod in pods),
        "failed": {pod["reason"]: 1 for pod in counted["Failed"]},
        "leftAlone": {pod["reason"]: 1 for pod in counted["LeftAlone"]},
        "pods": list(pods),
        **changes,
    }
    return Report(AGENT, data, "")


def test_every_reason_of_the_agent_has_its_words() -> None:
    assert set(clat.WHY) == {reason.value for reason in LeftAlone}


def test_only_agents_with_the_container_are_asked_and_in_it() -> None:
    asked: list[tuple[str, str, tuple[str, ...]]] = []

    class Access:
        def items(self, path: str, **query: str) -> list[Any]:
            raise AssertionError(path, query)

        def exec(self, _: str, pod: str, container: str, argv: Any) -> Output:
            asked.append((pod, container, tuple(argv)))
            return Output('{"pods": []}', "", 0)

    [answer] = agents.ask_clats(Access(), [AGENT, AGENT._replace(clat=False, pod="other")])
    assert answer.data == {"pods": []}
    assert asked == [
        (AGENT.pod, "clat", ("nat64-clat", "status", "--name", "default")),
    ]


def test_status_counts_pods_and_says_what_was_left_alone() -> None:
    built = status.build([], [], [], [report(SET_UP, ALONE)])
    assert built["clat"][0]["setUp"] == 1
    text = status.render(built, Paint(False))
    assert "CLAT PODS" in text
    assert "1 has_ipv4" in text
    assert "CLAT" not in status.render(status.build([], [], []), Paint(False))


@pytest.mark.parametrize(
    ("found", "well"),
    [
        (report(SET_UP, ALONE), True),
        (report(SET_UP, FAILED), False),
        (report(ready=False, reason="can't watch /run/netns"), False),
        (Report(AGENT, None, "exec: timed out"), False),
    ],
)
def test_a_pod_without_the_clat_that_it_should_have_is_not_well(found: Report, well: bool) -> None:
    gateway = test_kubectl_doctor.gateway()
    assert status.is_well(status.build([gateway], [], [], [found])) is well


def test_doctor_says_which_pods_have_none_and_why() -> None:
    steps = list(clat.examine(report(SET_UP, FAILED, ALONE)))
    assert [step.result for step in steps] == [Result.OK, Result.STOP, Result.NOTE]
    assert "1 pods have one, towards" in steps[0].text
    assert "default/bad could not be given one: EPERM: Operation not permitted" in steps[1].text
    assert "an IPv4 address of its own: default/dual" in steps[2].text
    whole = test_kubectl_doctor.facts(clats=[])
    inspected = whole.inspections[0].agent
    found = doctor.judge(whole._replace(clats=[report(FAILED)._replace(agent=inspected)]))
    assert not doctor.is_well(found)
    assert any("default/bad" in step.text for section in found for step in section.steps)


LITERAL = "198.51.100.10"
STANDS = "64:ff9b:1:c1a7::c633:640a"


def walk(found: Report | None) -> list[Any]:
    way = {**test_kubectl_trace.WAY, "address": STANDS}
    return trace.judge(
        test_kubectl_trace.facts(("dns", None), ("destinations", [way]), host=LITERAL, clat=found)
    )


def test_a_literal_is_followed_through_the_pod_s_clat_and_the_gateway() -> None:
    steps = walk(report(SET_UP))
    assert end(steps) is None
    text = next(step.text for step in steps if step.name == "CLAT")
    assert f"192.0.0.2 to {LITERAL} becomes fd00::5 to {STANDS}" in text
    names = [step.name for step in steps]
    assert names.index("CLAT") < names.index("NetworkPolicy")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "spec.clat.mode to Pods"),
        (Report(AGENT, None, "exec: timed out"), "timed out"),
        (report(ALONE | {"name": "web"}), "an IPv4 address of its own"),
        (report(FAILED | {"name": "web"}), "EPERM: Operation not permitted"),
        (report(ALONE), "knows of no CLAT of this pod"),
    ],
)
def test_a_literal_that_goes_nowhere_stops_with_the_reason(found: Report | None, says: str) -> None:
    last = walk(found)[-1]
    assert (last.name, last.result) == ("CLAT", Result.STOP)
    assert says in f"{last.text} {last.remedy}"
    assert "[64:ff9b:1::c633:640a]" in last.remedy


def test_a_pod_without_a_name_is_found_by_its_address() -> None:
    nameless = {key: value for key, value in SET_UP.items() if key not in ("namespace", "name")}
    assert end(walk(report(nameless))) is None
