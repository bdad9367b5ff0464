"""A Datapath's life: pinned state, restarts, upgrades, config changes, removal."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from nat64_dataplane.bpf.errors import PinMismatchError
from nat64_dataplane.config import Config, Limits, Policy, StaticMapping
from nat64_dataplane.translator.datapath import pinned_maps
from nat64_dataplane.translator.datapath.datapath import Datapath, DatapathError
from nat64_dataplane.translator.host_view import HostView, PoolRange
from tests.dataplane.machine import PREFIX, at

pytestmark = pytest.mark.root

LIMITS = Limits(sessions=4096)
CONFIG = Config(name="life", prefix=PREFIX, limits=LIMITS)
POOL = IPv4Address("192.0.2.1")
HOST = HostView(
    interface_index=1,
    interface_mac=bytes(6),
    uplinks=(),
    pool=(PoolRange(POOL, 61001, 65535),),
    local_ranges=frozenset({IPv4Network(POOL)}),
)
OTHER_POD = IPv6Address("fd64:1::77")
OUT = IPv6(src="fd64:1::10", dst=at("203.0.113.10")) / UDP(sport=4000, dport=53)


def send(datapath: Datapath) -> IP:
    result = datapath.program("nat64_egress").run(bytes(12) + b"\x86\xdd" + bytes(OUT))
    assert result.verdict == 7
    return IP(result.packet[14:])


def answer(datapath: Datapath, port: int) -> int:
    packet = IP(src="203.0.113.10", dst=str(POOL)) / UDP(sport=53, dport=port)
    return datapath.program("nat64_ingress").run(bytes(12) + b"\x08\x00" + bytes(packet)).verdict


def test_everything_outlives_the_process_that_made_it(root: Path) -> None:
    with Datapath.open(root, "life", LIMITS) as first:
        first.apply(CONFIG, HOST)
        port = send(first).sport
        before = first.counters()
    with Datapath.open(root, "life", LIMITS) as second:
        assert second.applied_hash() == CONFIG.content_hash
        assert answer(second, port) == 7
        assert send(second).sport == port
        assert second.counters()["received_6to4"] == before["received_6to4"] + 1
        assert second.session_count() == 1


def test_programs_are_pinned_and_replaced_in_place(root: Path) -> None:
    with Datapath.open(root, "life", LIMITS) as first:
        path = first.program_path("nat64_egress")
        assert path.exists()
        one = first.program_identity("nat64_egress")
    with Datapath.open(root, "life", LIMITS) as second:
        assert second.program_path("nat64_egress") == path
        two = second.program_identity("nat64_egress")
    assert one[1] == two[1]
    assert sorted(p.name for p in path.parent.iterdir() if p.name.endswith(".new")) == []


def test_other_limits_are_another_layout_beside_the_old_one(root: Path) -> None:
    with Datapath.open(root, "life", LIMITS) as first:
        old = first.directory
    with Datapath.open(root, "life", Limits(sessions=8192)) as second:
        assert second.directory != old
        assert second.session_limit() == 8192
        assert old is not None
        assert old.exists()
        assert second.prune() == [old]
        assert not old.exists()
        assert second.program_path("nat64_egress").exists()


def test_foreign_map_under_our_name_is_refused_with_the_reason(root: Path) -> None:
    with Datapath.open(root, "life", LIMITS) as first:
        directory = first.directory
        assert directory is not None
        (directory / "bib4").unlink()
        first.map("bib6").pin(directory / "bib4")
    with pytest.raises(PinMismatchError, match=r"bib4 doesn't fit: key_size is 24, needed is 8"):
        Datapath.open(root, "life", LIMITS)


def test_instances_do_not_share_anything(root: Path) -> None:
    with Datapath.open(root, "one", LIMITS) as one, Datapath.open(root, "two", LIMITS) as two:
        one.apply(CONFIG, HOST)
        send(one)
        assert two.applied_hash() is None
        assert two.session_count() == 0
        pinned_maps.remove_instance(root, "two")
        assert one.program_path("nat64_egress").exists()


def test_removal_leaves_nothing_of_any_layout_and_can_be_repeated(root: Path) -> None:
    Datapath.open(root, "life", LIMITS).close()
    Datapath.open(root, "life", Limits(sessions=2048)).close()
    (root / "life" / "links").mkdir()
    pinned_maps.remove_instance(root, "life")
    assert [path.name for path in (root / "life").iterdir()] == ["links"]  # the agent's own
    (root / "life" / "links").rmdir()
    pinned_maps.remove_instance(root, "life")
    pinned_maps.remove_instance(root, "life")
    assert not root.exists()


def test_unpinned_datapath_has_no_path() -> None:
    with Datapath.open(None, "life", LIMITS) as datapath:
        assert datapath.directory is None
        assert datapath.program_fd("nat64_ingress") > 2
        assert datapath.prune() == []


def test_config_that_does_not_fit_changes_nothing(root: Path) -> None:
    with Datapath.open(root, "life", LIMITS) as datapath:
        datapath.apply(CONFIG, HOST)
        port = send(datapath).sport
        other = replace(HOST, interface_index=0)
        with pytest.raises(DatapathError, match="isn't there yet"):
            datapath.apply(Config(name="life", prefix=PREFIX, lowest_ipv6_mtu=1400), other)
        crowd = tuple(PoolRange(IPv4Address(i), 1, 2) for i in range(5000))
        with pytest.raises(DatapathError, match="5000 addresses: at most 4096"):
            datapath.apply(CONFIG, replace(HOST, pool=crowd))
        with pytest.raises(DatapathError, match="no pool"):
            datapath.apply(CONFIG, replace(HOST, pool=()))
        assert datapath.applied_hash() == CONFIG.content_hash
        assert answer(datapath, port) == 7


def test_pools_too_large_for_the_port_map_leave_the_old_config_in_force(root: Path) -> None:
    with Datapath.open(root, "life", LIMITS) as datapath:
        datapath.apply(CONFIG, HOST)
        port = send(datapath).sport
        wide = tuple(PoolRange(IPv4Address(2**31 + i), 1, 65535) for i in range(500))
        with pytest.raises(DatapathError, match="ports"):
            datapath.apply(
                Config(name="life", prefix=PREFIX, lowest_ipv6_mtu=1400), replace(HOST, pool=wide)
            )
        assert datapath.applied_hash() == CONFIG.content_hash
        assert answer(datapath, port) == 7
        datapath.apply(CONFIG, HOST)
        assert answer(datapath, port) == 7


def test_applying_again_and_again_leaks_nothing(root: Path) -> None:
    policies = [Policy(), Policy(denied_destinations=(), allow_non_global=True)]
    with Datapath.open(root, "life", LIMITS) as datapath:
        sizes = set()
        for round_ in range(8):
            datapath.apply(Config(name="life", prefix=PREFIX, policy=policies[round_ % 2]), HOST)
            sizes.add(
                tuple(
                    len(datapath.map(name).keys())
                    for name in ("sources", "destinations", "ports", "uplinks")
                )
            )
        assert len(sizes) <= 2  # one slot is filled after the first round, then both


def test_static_mapping_replaces_a_binding_that_has_its_port(root: Path) -> None:
    with Datapath.open(root, "life", LIMITS) as datapath:
        datapath.apply(CONFIG, HOST)
        port = send(datapath).sport
        mapping = StaticMapping(
            protocol="udp",
            client=OTHER_POD,
            client_port=99,
            address=POOL,
            port=port,
        )
        datapath.apply(Config(name="life", prefix=PREFIX, static_mappings=(mapping,)), HOST)
        assert send(datapath).sport != port
        (static,) = [entry for entry in datapath.bib() if entry.static]
        assert (static.client, static.client_port, static.port) == (OTHER_POD, 99, port)
        assert all(session.port != port for session in datapath.sessions())
