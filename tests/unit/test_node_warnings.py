"""Warnings: one per reason, bounded, and the same in every place that shows them."""

from __future__ import annotations

import asyncio

import pytest

from nat64_dataplane.config import Config
from nat64_dataplane.http_server import Answer
from nat64_dataplane.translator.node_warning import REASONS, NodeWarning, ordered, warn
from nat64_dataplane.translator.report import probes
from nat64_dataplane.translator.report.agent_state import AgentState
from nat64_dataplane.translator.run_directory import Status
from tests.unit.test_docs import Kernel

STATUS = Status(
    prefix="64:ff9b::/96", programmed=True, reason="Programmed: x", config_hash="00", since=1.0
)


@pytest.mark.parametrize("reason", REASONS)
def test_a_warning_says_what_it_means_here_and_what_to_do(reason: str) -> None:
    plain, found = warn(reason), warn(reason, "61001-61010")
    assert plain.message == REASONS[reason].meaning
    assert found.message == f"{REASONS[reason].meaning} (61001-61010)"
    assert found.remedy == REASONS[reason].remedy != ""


def test_many_details_are_counted_and_the_message_is_bounded() -> None:
    assert warn("PortsNotReserved", *"abcde").message.endswith("(a; b; c; and 2 more)")
    assert len(warn("PortsNotReserved", "x" * 2000).message) == 500


def test_an_unknown_reason_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        warn("Cosmic")


def test_warnings_come_once_each_and_in_one_order() -> None:
    backwards = [warn(reason) for reason in reversed(REASONS)] * 2
    assert [warning.reason for warning in ordered(backwards)] == list(REASONS)


def test_a_new_warning_is_a_change_of_status_and_none_of_what_is_programmed() -> None:
    warned = Status(
        prefix=STATUS.prefix,
        programmed=True,
        reason=STATUS.reason,
        config_hash="00",
        since=2.0,
        warnings=(warn("NoNftables"),),
    )
    assert not warned.same_as(STATUS)
    assert warned.same_state(STATUS)


def test_readyz_stays_ok_and_names_the_warnings() -> None:
    warning: NodeWarning = warn("PortsNotReserved", "61001-61010")
    state = AgentState(Config(name="default"), STATUS, settled=True, warnings=(warning,))

    async def ask() -> Answer:
        answer = probes.routes(state, Kernel())["/readyz"]()
        assert not isinstance(answer, Answer)
        return await answer

    answer = asyncio.run(ask())
    assert answer.status == 200
    lines = answer.body.decode().splitlines()
    assert lines[0] == STATUS.reason
    assert lines[1].startswith("warning PortsNotReserved: ")
    assert warning.remedy in lines[1]
