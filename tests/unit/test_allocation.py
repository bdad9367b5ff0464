"""Who has which addresses of a shared range: sticky, never two owners, free again after a delay."""

import random
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from nat64_operator.reconcile.allocation import (
    DELAY_SECONDS,
    MAX_ADDRESSES,
    Allocation,
    Demand,
    Held,
    Share,
    allocate,
)

RANGE = Demand(IPv4Network("192.0.2.0/29"), 2)
A = [IPv4Address("192.0.2.0") + n for n in range(8)]


def owners(allocation: Allocation) -> dict[str, list[IPv4Address]]:
    return {
        node: [address for net in nets for address in net]
        for node, nets in allocation.of_nodes().items()
    }


def test_each_node_is_given_its_own_and_keeps_it() -> None:
    first = allocate({}, [RANGE], ["c", "a", "b"], now=0)
    assert owners(first) == {"a": A[0:2], "b": A[2:4], "c": A[4:6]}
    assert not first.short
    again = allocate(first.held, [RANGE], ["0", "c", "a", "b"], now=1)
    assert owners(again) == {"a": A[0:2], "b": A[2:4], "c": A[4:6], "0": A[6:8]}


def test_a_range_that_is_too_small_is_said_in_numbers() -> None:
    made = allocate({}, [RANGE], "abcde", now=0)
    short = made.short[RANGE.network]
    assert (short.needed, short.missing, short.nodes) == (10, 2, ("e",))
    grown = allocate(made.held, [RANGE._replace(per_node=3)], "abc", now=1)
    assert grown.short[RANGE.network].missing == 3, "what d had is not free yet"


def test_a_node_that_is_gone_frees_its_share_after_a_delay() -> None:
    held = allocate({}, [RANGE], "abcd", now=0).held
    left = allocate(held, [RANGE], "abce", may_hold="d", now=10)
    assert left.short[RANGE.network].nodes == ("e",), "it may still translate"
    gone = allocate(left.held, [RANGE], "abce", now=20)
    assert gone.short[RANGE.network].nodes == ("e",)
    assert gone.wake == DELAY_SECONDS
    back = allocate(gone.held, [RANGE], "abcd", now=30)
    assert owners(back)["d"] == A[6:8], "who comes back has it at once"
    free = allocate(gone.held, [RANGE], "abce", now=20 + DELAY_SECONDS)
    assert owners(free)["e"] == A[6:8]
    assert free.wake is None


def test_what_is_not_asked_for_is_given_back_once_all_nodes_know() -> None:
    held = allocate({}, [RANGE], "ab", now=0).held
    less = RANGE._replace(per_node=1)
    rolling = allocate(held, [less], "abcdefg", settled=False, now=1)
    assert owners(rolling)["a"] == A[0:2]
    assert rolling.short[RANGE.network].missing == 1
    done = allocate(rolling.held, [less], "abcdefg", now=2)
    assert owners(done)["a"] == A[0:1]
    assert done.held[A[1]] == Share("a", 2)
    late = allocate(done.held, [less], "abcdefg", now=2 + DELAY_SECONDS)
    assert not late.short


def test_the_address_of_a_node_is_never_given_out() -> None:
    made = allocate({}, [RANGE], "abcd", taken=[A[0]], now=0)
    assert A[0] not in made.held
    assert made.short[RANGE.network].missing == 1


def test_a_record_is_bounded() -> None:
    demand = Demand(IPv4Network("10.0.0.0/16"), 64)
    made = allocate({}, [demand], [f"n{n}" for n in range(200)], now=0)
    assert len(made.held) == MAX_ADDRESSES
    assert made.short[demand.network].missing == 200 * 64 - MAX_ADDRESSES


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_address_moves_from_node_to_node_before_its_delay(seed: int) -> None:
    rng = random.Random(seed)
    held: Held = {}
    now, had = 0.0, dict[IPv4Address, tuple[str, float]]()
    for _ in range(30):
        demands = [
            Demand(IPv4Network("192.0.2.0/29"), rng.choice([1, 2])),
            Demand(IPv4Network("198.51.100.0/30"), 1),
        ][: rng.choice([1, 2])]
        nodes = {name for name in "abcdef" if rng.random() < 0.5}
        may_hold = {name for name in "abcdef" if rng.random() < 0.2} - nodes
        settled = rng.random() < 0.6
        made = allocate(
            held, demands, nodes, may_hold=may_hold, settled=settled, taken=A[:1], now=now
        )
        again = allocate(
            made.held, demands, nodes, may_hold=may_hold, settled=settled, taken=A[:1], now=now
        )
        assert again.held == made.held, "it is decided once"
        for address, share in made.held.items():
            owner, until = had.get(address, (share.node, 0))
            assert owner == share.node or now - until >= DELAY_SECONDS
            if share.released is None:
                had[address] = share.node, now
        for node, addresses in owners(made).items():
            assert node in nodes | may_hold or node in {s.node for s in held.values()}
            assert len(addresses) <= 2 + 1 or not settled
        for network, short in made.short.items():
            assert short.missing > 0
            assert network in {demand.network for demand in demands}
        held, now = made.held, now + rng.choice([1, 50, 200, 400])
