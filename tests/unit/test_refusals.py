"""Refused connections become warnings that name what is used up, and by which limit."""

from __future__ import annotations

from nat64_dataplane.translator.datapath.counters import DROP_REASONS
from nat64_dataplane.translator.node_warning import NodeWarning
from nat64_dataplane.translator.refusals import REMEMBERED, Refusals


class Node:
    """Counters and a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.counters = {f"dropped_{reason}_6to4": 7 for reason in DROP_REASONS}
        self._refusals = Refusals(lambda: self.now)

    def warnings(self) -> dict[str, NodeWarning]:
        found = self._refusals.warnings(self.counters)
        return {warning.reason: warning for warning in found}

    def refuse(self, reason: str) -> None:
        self.counters[f"dropped_{reason}_6to4"] += 1


def test_what_was_refused_before_the_first_look_is_no_news() -> None:
    assert not Node().warnings()


def test_each_refusal_has_its_warning_for_a_minute() -> None:
    node = Node()
    node.warnings()
    node.refuse("ports_exhausted")
    node.refuse("session_table_full")
    assert list(node.warnings()) == ["PortsExhausted", "SessionTableFull"]
    node.now += REMEMBERED
    assert list(node.warnings()) == ["PortsExhausted", "SessionTableFull"]
    node.refuse("ports_exhausted")
    node.now += 1
    assert list(node.warnings()) == ["PortsExhausted"]


def test_a_client_at_a_limit_is_told_of_by_the_limit_and_not_by_its_address() -> None:
    node = Node()
    node.warnings()
    node.refuse("client_session_limit")
    assert node.warnings()["ClientAtLimit"].message.endswith("(client_session_limit)")
    node.now += REMEMBERED + 1
    node.refuse("client_port_share")
    assert node.warnings()["ClientAtLimit"].message.endswith("(client_port_share)")


def test_drops_that_refuse_no_connection_warn_of_nothing() -> None:
    node = Node()
    node.warnings()
    node.refuse("destination_denied")
    assert not node.warnings()
