"""Slots of the programs' table: who has one, who gets one, and what is free again."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from nat64_dataplane.clat.keeper import Slots
from nat64_dataplane.clat.namespace import Identity
from nat64_dataplane.clat.programs import SLOTS, Programs, Slot
from nat64_dataplane.errors import HostError
from tests.dataplane.clat_bench import POD, PREFIX

pytestmark = pytest.mark.root

SLOT, OTHER = Slot(POD, PREFIX), Slot(IPv6Address("fd64:1::11"), PREFIX)
FIRST, SECOND = Identity(4, 1), Identity(4, 2)


@pytest.fixture
def programs() -> Iterator[Programs]:
    built = Programs.load()
    yield built
    built.close()


def test_slot_zero_is_nobodys_and_all_others_may_be_taken(programs: Programs) -> None:
    slots = Slots(programs)
    taken = [slots.take(Identity(4, number)) for number in range(SLOTS - 1)]
    assert taken == list(range(1, SLOTS))
    with pytest.raises(HostError, match="all 4095 slots"):
        slots.take(FIRST)


def test_the_slot_that_has_been_free_for_longest_is_given_next(programs: Programs) -> None:
    slots = Slots(programs)
    index = slots.take(FIRST)
    slots.write(index, SLOT)
    assert programs.slots() == {index: SLOT}
    slots.give_back(index)
    assert programs.slots() == {}
    assert slots.take(SECOND) != index


def test_the_next_agent_gives_a_pod_only_its_own_slot(programs: Programs) -> None:
    """A filter may say anything; the table says whose the slot was."""
    before = Slots(programs)
    for owner, slot in ((FIRST, SLOT), (SECOND, OTHER)):
        before.write(before.take(owner), slot)
    slots = Slots(programs)
    assert slots.take(Identity(4, 3)) == 3, "what the last agent gave away isn't free yet"
    assert not slots.claim(2, FIRST, SLOT), "another pod's"
    assert slots.claim(1, FIRST, SLOT)
    assert not slots.claim(1, SECOND, SLOT), "taken"
    slots.clear_unclaimed()
    assert programs.slots() == {1: SLOT}
