"""`prepare` and its undoing, on a copy of what /proc/sys looks like."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from nat64_dataplane.config import parse
from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.node import node_sysctls
from nat64_dataplane.translator.node.address_dump import Address
from nat64_dataplane.translator.node.facts import Facts, Link

FACTS = Facts(
    links=(Link(1, "lo", 65536, 9, bytes(6)), Link(2, "eth0", 1500, 1, bytes(6))),
    addresses=(Address(2, IPv4Address("198.51.100.1")),),
)
RESERVED = "net/ipv4/ip_local_reserved_ports"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """The sysctls of a node that forwards nothing and learns its routes from advertisements."""
    root = tmp_path / "sys"
    for family in ("ipv4", "ipv6"):
        for name in ("all", "default", "lo", "eth0"):
            directory = root / "net" / family / "conf" / name
            directory.mkdir(parents=True)
            (directory / "forwarding").write_text("0\n")
            (directory / "accept_ra").write_text("1\n")
    (root / RESERVED).write_text("8080,9000-9002\n")
    return root


def read(proc: Path) -> dict[str, str]:
    files = (path for path in proc.rglob("*") if path.is_file())
    return {str(path.relative_to(proc)): path.read_text().strip() for path in files}


def run(proc: Path, text: str = "name: default", ra: frozenset[int] = frozenset({2})) -> list[str]:
    run_dir = proc.parent / "run"
    return list(node_sysctls.prepare(parse(text), FACTS, ra, run_dir, proc))


def undo(proc: Path, instance: str = "default") -> None:
    list(node_sysctls.restore(instance, proc.parent / "run", proc))


def test_forwarding_is_turned_on_and_advertised_routes_survive_it(proc: Path) -> None:
    done = run(proc)
    assert done.index("net.ipv6.conf.eth0.accept_ra = 2") < done.index(
        "net.ipv6.conf.all.forwarding = 1"
    )
    after = read(proc)
    assert after["net/ipv6/conf/all/forwarding"] == "1"
    assert after["net/ipv4/conf/all/forwarding"] == "0", "nobody needs an IPv4 router"
    assert after["net/ipv6/conf/lo/accept_ra"] == "1", "no route was learnt there"


def test_reserved_ports_are_added_to_those_that_are_there(proc: Path) -> None:
    run(proc)
    assert read(proc)[RESERVED] == "8080,9000-9002,61001-65535"


def test_pools_off_the_nodes_own_addresses_reserve_nothing(proc: Path) -> None:
    run(proc, "{name: default, pools: [{addresses: 192.0.2.8/29}]}")
    assert read(proc)[RESERVED] == "8080,9000-9002"
    run(proc, "{name: default, pools: [{addresses: 198.51.100.0/29, ports: 5000-5001}]}")
    assert read(proc)[RESERVED] == "5000-5001,8080,9000-9002"


def test_preparing_twice_changes_nothing_more(proc: Path) -> None:
    run(proc)
    assert run(proc) == []


def test_undoing_restores_exactly(proc: Path) -> None:
    before = read(proc)
    run(proc)
    undo(proc)
    assert read(proc) == before
    assert not (proc.parent / "run" / "prepared.json").exists()


def test_a_link_that_forwarded_before_goes_on_forwarding(proc: Path) -> None:
    lone = proc / "net/ipv6/conf/eth0/forwarding"
    lone.write_text("1\n")
    run(proc)
    every = proc / "net/ipv6/conf/all/forwarding"
    assert every.read_text() == "1\n"
    undo(proc)
    assert lone.read_text() == "1\n"
    assert every.read_text() == "0\n"


def test_what_someone_else_has_changed_since_is_left_alone(proc: Path) -> None:
    run(proc)
    (proc / "net/ipv6/conf/eth0/accept_ra").write_text("0\n")
    (proc / RESERVED).write_text("7000,8080,9000-9002,61001-65535\n")
    undo(proc)
    assert read(proc)["net/ipv6/conf/eth0/accept_ra"] == "0"
    assert read(proc)[RESERVED] == "7000,8080,9000-9002"


def test_the_last_of_two_instances_restores(proc: Path) -> None:
    before = read(proc)
    run(proc)
    run(proc, "{name: second, pools: [{ports: 50000-50009}, {ports: 65000-65535}]}")
    assert read(proc)[RESERVED] == "8080,9000-9002,50000-50009,61001-65535"
    undo(proc)
    assert read(proc)[RESERVED] == "8080,9000-9002,50000-50009,65000-65535"
    assert read(proc)["net/ipv6/conf/all/forwarding"] == "1"
    undo(proc, "second")
    assert read(proc) == before


def test_a_node_that_forwards_already_is_not_touched(proc: Path) -> None:
    for path in proc.rglob("forwarding"):
        path.write_text("1\n")
    assert run(proc) == ["net.ipv4.ip_local_reserved_ports = 8080,9000-9002,61001-65535"]
    undo(proc)
    assert read(proc)["net/ipv6/conf/all/forwarding"] == "1"


def test_what_cannot_be_written_is_named(proc: Path) -> None:
    (proc / RESERVED).unlink()
    with pytest.raises(HostError, match="ip_local_reserved_ports"):
        run(proc)


def test_an_undoing_that_failed_can_be_done_again(proc: Path) -> None:
    before = read(proc)
    run(proc)
    reserved = proc / RESERVED
    content = reserved.read_text()
    reserved.unlink()
    with pytest.raises(HostError):
        undo(proc)
    reserved.write_text(content)
    undo(proc)
    assert read(proc) == before


def test_what_is_missing_is_told(proc: Path) -> None:
    config = parse("name: default")
    with pytest.raises(HostError, match="forwarding is 0"):
        node_sysctls.missing(config, FACTS, proc)
    run(proc, "{name: default, pools: [{ports: 61001-62000}]}")
    assert node_sysctls.missing(config, FACTS, proc) == "62001-65535"
    run(proc)
    assert node_sysctls.missing(config, FACTS, proc) == ""


def test_undoing_without_a_record_does_nothing(proc: Path) -> None:
    before = read(proc)
    undo(proc)
    assert read(proc) == before


@pytest.mark.parametrize("text", ["", "1", "1-3,5,7-65535", "61001-65535"])
def test_port_lists_read_back_equal(text: str) -> None:
    assert node_sysctls.format_ports(node_sysctls.parse_ports(text)) == text
