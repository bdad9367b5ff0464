"""Which clients go to which gateway: the table, the indexes in it, and who is in it at all."""

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane.members import MAX_GATEWAYS, GatewayEntry
from nat64_dataplane.translator.steering import hash_table, places
from nat64_dataplane.translator.steering.decision import Use, decide
from nat64_dataplane.translator.steering.hash_table import ENTRIES, NO_GATEWAY
from nat64_dataplane.translator.steering.health import State

ADDRESSES = st.integers(1, 2**64).map(lambda n: IPv6Address((0xFD00 << 112) + n))
WEIGHTED = st.dictionaries(ADDRESSES, st.integers(1, 100), min_size=1, max_size=8)

Weights = dict[IPv6Address, int]


def table_of(weights: Weights) -> list[IPv6Address]:
    """The table with addresses in the place of indexes."""
    indexed = {index: (address, weights[address]) for index, address in enumerate(weights)}
    return [indexed[index][0] for index in hash_table.fill(indexed)]


@given(WEIGHTED)
def test_a_gateway_that_goes_leaves_only_its_own_entries_to_others(weights: Weights) -> None:
    before = table_of(weights)
    gone = next(iter(weights))
    rest = {address: weight for address, weight in weights.items() if address != gone}
    if not rest:
        assert hash_table.fill({}) == [NO_GATEWAY] * ENTRIES
        return
    for was, now in zip(before, table_of(rest), strict=True):
        assert now == was or was == gone


@given(WEIGHTED, st.integers(1, 100))
def test_a_weight_moves_entries_to_or_from_that_gateway_only(weights: Weights, other: int) -> None:
    changed = next(iter(weights))
    before, after = table_of(weights), table_of(weights | {changed: other})
    for was, now in zip(before, after, strict=True):
        assert now == was or (now == changed if other > weights[changed] else was == changed)


@given(WEIGHTED, st.randoms(use_true_random=False))
def test_all_router_nodes_have_the_same_table_however_they_number_the_gateways(
    weights: Weights, random: object
) -> None:
    order = list(weights)
    random.shuffle(order)  # type: ignore[attr-defined]
    assert table_of({address: weights[address] for address in order}) == table_of(weights)


@given(WEIGHTED)
def test_each_has_about_its_weight_of_the_entries(weights: Weights) -> None:
    table, total = table_of(weights), sum(weights.values())
    for address, weight in weights.items():
        share = weight / total
        # Six standard deviations of as many draws, and the odd entry.
        allowed = 6 * (ENTRIES * share * (1 - share)) ** 0.5 + 3
        assert abs(table.count(address) - ENTRIES * share) <= allowed


@given(
    st.lists(ADDRESSES, unique=True, max_size=MAX_GATEWAYS),
    st.lists(ADDRESSES, unique=True, max_size=MAX_GATEWAYS),
    st.integers(0, MAX_GATEWAYS),
)
def test_an_index_stays_with_its_gateway_and_is_given_again_late(
    first: list[IPv6Address], others: list[IPv6Address], kept: int
) -> None:
    before = places.assign({}, first)
    wanted = list(dict.fromkeys([*first[:kept], *others]))[:MAX_GATEWAYS]
    after = places.assign(before, wanted)
    assert sorted(after.values()) == sorted(wanted)
    assert all(0 <= index < MAX_GATEWAYS for index in after)
    for index, address in before.items():
        if address in wanted:
            assert after[index] == address
    reused = [i for i, a in after.items() if i in before and before[i] != a]
    if reused:  # then nothing else was free
        assert len(before.keys() | after.keys()) == MAX_GATEWAYS


A, B, C = (IPv6Address(f"fd00::{name}") for name in "abc")
PLACES = {0: A, 1: B, 2: C}


def decided(a: State, b: State, c: State, drain: str = "") -> tuple[list[Use], set[int]]:
    entries = {
        at: GatewayEntry(node=name, address=at, draining=name in drain)
        for name, at in zip("abc", (A, B, C), strict=True)
    }
    found = decide(PLACES, entries, {A: a, B: b, C: c})
    return [found.gateways[index][1] for index in range(3)], set(found.table)


def test_new_clients_go_to_the_healthy() -> None:
    uses, takers = decided(State.HEALTHY, State.DEAD, State.HEALTHY)
    assert (uses, takers) == ([Use.HEALTHY, Use.DEAD, Use.HEALTHY], {0, 2})


def test_a_draining_gateway_keeps_its_clients_and_gets_no_new_ones() -> None:
    for a, drain in ((State.DRAINING, ""), (State.HEALTHY, "a")):
        uses, takers = decided(a, State.HEALTHY, State.NEW, drain)
        assert (uses, takers) == ([Use.DRAINING, Use.HEALTHY, Use.DEAD], {1})


def test_who_drains_is_better_than_nobody_but_not_where_it_is_dead() -> None:
    uses, takers = decided(State.DRAINING, State.DEAD, State.RECOVERING)
    assert (uses, takers) == ([Use.DRAINING, Use.DEAD, Use.DEAD], {0})
    uses, takers = decided(State.DEAD, State.DEAD, State.NEW, "a")
    assert (uses, takers) == ([Use.DEAD] * 3, {NO_GATEWAY})


def test_damping_spares_nobody_where_there_is_no_other() -> None:
    uses, takers = decided(State.DEAD, State.RECOVERING, State.NEW)
    assert (uses, takers) == ([Use.DEAD, Use.HEALTHY, Use.DEAD], {1})


def test_weights_count_in_the_decision() -> None:
    entries = {
        A: GatewayEntry(node="a", address=A, weight=3),
        B: GatewayEntry(node="b", address=B),
    }
    table = decide({0: A, 7: B}, entries, {A: State.HEALTHY, B: State.HEALTHY}).table
    assert 2.5 < table.count(0) / table.count(7) < 3.5
