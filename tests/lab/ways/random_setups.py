"""Random nodes: hypothesis strategies for a Setup and its probes."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.lab.ways.compare import Probe
from tests.lab.ways.setup import LINKS, LO, MARK, TABLES, Address, Hop, Route, Rule, Setup

MAIN = 254
SUBNETS = {
    "eth0": ("198.51.100.0", "198.51.100.32"),
    "eth1": ("198.51.100.64", "198.51.100.96"),
    "eth2": ("192.0.2.0", "192.0.2.32"),
    "tun0": ("192.0.2.128", "192.0.2.160"),
}
VIPS = ("192.0.2.201", "192.0.2.202")
FAR = ("203.0.113.10", "203.0.113.75", "203.0.113.140", "192.0.2.250")
NETWORKS = ("default", "203.0.113.0/25", "203.0.113.0/26", "203.0.113.10/32", "192.0.2.248/29")


def host(subnet: str, number: int) -> str:
    """The address `number` of a subnet."""
    head, _, last = subnet.rpartition(".")
    return f"{head}.{int(last) + number}"


NEIGHBOURS = tuple(host(subnets[at], 9) for subnets in SUBNETS.values() for at in (0, 1))
"""One neighbour per subnet: on the link only if the node has an address there."""


def _numbered(link: str) -> SearchStrategy[Address]:
    return st.builds(
        Address,
        st.just(link),
        st.builds(host, st.sampled_from(SUBNETS[link]), st.sampled_from((1, 2))),
        st.just(27),
        st.sampled_from(("global", "global", "global", "link")),
    )


ADDRESSES = st.lists(
    st.one_of(
        *map(_numbered, LINKS),
        st.builds(Address, st.sampled_from((LO, *LINKS)), st.sampled_from(VIPS), st.just(32)),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda address: address.address,
)


def _gateways(link: str) -> SearchStrategy[tuple[str, bool]]:
    if link.startswith("tun"):
        return st.just(("", False))
    return st.one_of(
        st.tuples(st.builds(host, st.sampled_from(SUBNETS[link]), st.just(30)), st.booleans()),
        st.sampled_from((("", False), ("fe80::1e", False), ("192.0.2.249", True))),
    )


HOPS = st.sampled_from(LINKS).flatmap(
    lambda link: st.builds(
        lambda gateway, weight: Hop(link, gateway[0], gateway[1], weight),
        _gateways(link),
        st.sampled_from((1, 1, 3)),
    )
)


def _routes(sources: list[str]) -> SearchStrategy[Route]:
    common = {
        "destination": st.sampled_from(NETWORKS),
        "table": st.sampled_from((MAIN, MAIN, *TABLES)),
        "metric": st.sampled_from((0, 0, 10, 20)),
    }
    usable = st.builds(
        Route,
        hops=st.lists(HOPS, min_size=1, max_size=2).map(tuple),
        source=st.sampled_from(["", "", *sources]),
        nexthop_object=st.booleans(),
        **common,
    )
    kinds = st.sampled_from(("blackhole", "unreachable", "prohibit", "throw"))
    return st.one_of(usable, usable, st.builds(Route, kind=kinds, **common))


def _rules(sources: list[str]) -> SearchStrategy[Rule]:
    return st.builds(
        Rule,
        priority=st.integers(100, 105),
        action=st.sampled_from(
            ("lookup", "lookup", "lookup", "lookup", "blackhole", "unreachable", "prohibit")
        ),
        table=st.sampled_from((*TABLES, MAIN)),
        source=st.sampled_from(["", *sources, "198.51.100.0/24"]),
        destination=st.sampled_from(("", "", "203.0.113.0/25", "192.0.2.0/24")),
        mark=st.sampled_from((None, None, MARK)),
        # Not `lo`: no lookup for a forwarded packet follows rules for the node itself.
        iif=st.sampled_from(("", "", "pod0", "eth0")),
        invert=st.booleans(),
        suppress_prefix_length=st.sampled_from((None, None, 0)),
    )


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    """Any node that has an address and a route."""
    addresses = draw(ADDRESSES)
    sources = [address.address for address in addresses]
    return Setup(
        addresses=tuple(addresses),
        routes=tuple(draw(st.lists(_routes(sources), min_size=1, max_size=5))),
        rules=tuple(draw(st.lists(_rules(sources), max_size=3))),
        nexthop_compat_mode=draw(st.sampled_from((1, 0))),
        hash_policy=draw(st.sampled_from((0, 1))),
        cold=draw(st.booleans()),
        forward_drop=draw(st.booleans()),
    )


PROBES = st.lists(
    st.builds(Probe, st.sampled_from((*FAR, *NEIGHBOURS)), st.booleans()),
    min_size=1,
    max_size=4,
    unique=True,
)
