"""What the agent reads of its node, and when: only what has changed, and all that has."""

from __future__ import annotations

import ctypes
import os
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyroute2 import IPRoute

from nat64_dataplane.translator.node import fact_cache, fact_parts
from nat64_dataplane.translator.node.fact_cache import FactCache, Part
from nat64_dataplane.translator.node.facts import Facts
from tests.lab.node import Node, wait_for

pytestmark = pytest.mark.root

_CLONE_NEWNET = 0x40000000
OURS = "nat64-t"
ROUTES = {Part.MAIN, Part.LOCAL, Part.OTHERS}


class Reader:
    """A cache beside a reading without one, in a thread in the network namespace of a node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cache = FactCache()
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._enter).result()

    def _enter(self) -> None:
        space = os.open(f"/proc/{self.node.pid}/ns/net", os.O_RDONLY)
        assert ctypes.CDLL(None, use_errno=True).setns(space, _CLONE_NEWNET) == 0
        os.close(space)
        self._ipr = IPRoute(strict_check=True)

    def read(self) -> tuple[Facts, set[Part]]:
        """What the cache says, and which parts it has read for that."""
        before = Counter(self.cache.reads)
        found = self._thread.submit(self.cache.read, self._ipr, OURS).result()
        return found, {part for part in Part if self.cache.reads[part] > before[part]}

    def fresh(self) -> Facts:
        return self._thread.submit(fact_parts.read, self._ipr).result()

    def agrees(self, after: str) -> set[Part]:
        """Read until the cache says what the kernel says; return the parts that were read.

        The kernel tells of a carrier a moment after the link has it.
        """
        all_read: set[Part] = set()

        def the_same() -> bool:
            found, read = self.read()
            all_read.update(read)
            return found == self.fresh()

        wait_for(f"agreement after {after!r}", the_same)
        return all_read

    def close(self) -> None:
        self._thread.submit(self.cache.close).result()
        self._thread.submit(self._ipr.close).result()
        self._thread.shutdown()


@pytest.fixture
def reader() -> Iterator[Reader]:
    node = Node("reading")
    try:
        node.ip(
            "link add up0 type veth peer name far0",
            "link set up0 up",
            "link set far0 up",
            "link add up1 type veth peer name far1",
            "link set up1 up",
            "link set far1 up",
            f"link add {OURS} type veth peer name n64p-t",
            f"link set {OURS} up",
            "link set n64p-t up",
            "addr add 192.0.2.1/24 dev up0",
            "addr add 198.51.100.1/24 dev up1",
            "route add default via 192.0.2.254 dev up0",
        )
        found = Reader(node)
        found.read()
        carriers_are_told(node)
        found.read()
        yield found
        found.close()
    finally:
        node.close()


def test_a_reading_without_a_change_reads_nothing(reader: Reader) -> None:
    first, _ = reader.read()
    for _ in range(3):
        again, read = reader.read()
        assert read == set()
        assert again is first


def carriers_are_told(node: Node) -> None:
    """Wait until the kernel has told of all carriers, which it does a moment later."""
    links = ("up0", "far0", "up1", "far1", OURS, "n64p-t")
    wait_for("all carriers", lambda: {operstate(node, link) for link in links} == {"up"})
    node.ip("link set up0 alias up0")  # waits for whoever tells it just now


def operstate(node: Node, link: str) -> str:
    return node.run("cat", f"/sys/class/net/{link}/operstate").strip()


CHANGES: tuple[tuple[str, set[Part]], ...] = (
    ("addr add 192.0.2.20/24 dev up0", {Part.ADDRESSES, Part.LOCAL}),
    ("addr del 192.0.2.20/24 dev up0", {Part.ADDRESSES, Part.LOCAL}),
    ("addr add 192.0.2.30/32 dev up0", {Part.ADDRESSES}),
    ("route add 203.0.113.0/25 via 192.0.2.254 src 192.0.2.30", {Part.MAIN}),
    ("addr del 192.0.2.30/32 dev up0", {Part.ADDRESSES, Part.MAIN}),  # takes the route along
    ("route add 203.0.113.0/24 via 192.0.2.254", {Part.MAIN}),
    ("route replace default via 198.51.100.254 dev up1", {Part.MAIN, Part.WAY_OUT}),
    ("route add local 192.0.2.40 dev up0", {Part.LOCAL}),
    ("route del local 192.0.2.40 dev up0", {Part.LOCAL}),
    ("rule add fwmark 0x10 table 100", {Part.RULES}),
    ("route add default via 192.0.2.253 table 100", {Part.OTHERS}),
    ("rule add from 198.51.100.0/24 table 1000", {Part.RULES}),
    ("route add default via 198.51.100.253 table 1000", {Part.OTHERS}),
    ("rule del from 198.51.100.0/24 table 1000", {Part.RULES, Part.OTHERS}),
    ("nexthop add id 7 via 192.0.2.252 dev up0", set()),
    ("route add 203.0.113.128/25 nhid 7", {Part.MAIN}),
    ("nexthop replace id 7 via 198.51.100.252 dev up1", {Part.MAIN}),
    ("nexthop del id 7", {Part.MAIN}),
    ("link set up1 mtu 1400", {Part.LINKS}),
    ("link set up1 alias uplink", {Part.LINKS}),
    ("link set up1 down", {Part.LINKS, Part.MAIN}),  # its routes go without a word
    ("link set up1 up", {Part.LINKS, Part.MAIN, Part.LOCAL}),
    ("route add default via 198.51.100.254 dev up1", {Part.MAIN, Part.WAY_OUT}),
    ("link add pod0 type veth peer name pod1", {Part.LINKS}),
    ("link set pod0 up", {Part.LINKS}),
    ("addr add 2001:db8:1::1/64 dev up0 nodad", set()),
    ("route add default via 2001:db8:1::ff dev up0", {Part.IPV6}),
    ("route add 64:ff9b::/96 dev up0 proto 64", {Part.IPV6}),
    ("route del 64:ff9b::/96 dev up0 proto 64", {Part.IPV6}),
    ("link set up0 down", {Part.LINKS, Part.MAIN, Part.IPV6}),
    ("link set up0 up", {Part.LINKS, Part.LOCAL}),
    ("link del up1", {Part.LINKS, Part.ADDRESSES, Part.MAIN, Part.LOCAL}),
    ("link add up2 type veth peer name far2", {Part.LINKS}),
    ("addr add 198.51.100.9/24 dev up2", {Part.ADDRESSES}),
    ("link set up2 up", {Part.LINKS, Part.MAIN}),
    ("link del up2", {Part.LINKS, Part.ADDRESSES, Part.MAIN}),
)


def test_every_change_is_seen(reader: Reader) -> None:
    for change, parts in CHANGES:
        reader.node.ip(change)
        _, read = reader.read()
        assert read >= parts, (change, read)
        reader.agrees(change)


def test_a_pods_own_links_and_routes_cost_no_reading_of_other_routes(reader: Reader) -> None:
    for change in (
        "link add pod0 type veth peer name pod1",
        "link set pod0 up",
        "route add 2001:db8:2::5/128 dev pod0",
        "route del 2001:db8:2::5/128 dev pod0",
        "link del pod0",
    ):
        reader.node.ip(change)
        read = reader.agrees(change)
        assert not read & (ROUTES | {Part.ADDRESSES, Part.IPV6}), (change, read)


def test_settings_of_our_own_link_are_seen_although_the_kernel_keeps_quiet(reader: Reader) -> None:
    reader.node.run("sh", "-c", f"echo 1 >/proc/sys/net/ipv4/conf/{OURS}/accept_local")
    found, _ = reader.read()
    link = found.link(OURS)
    assert link
    assert link.devconf
    assert link.devconf.accept_local == 1
    assert found == reader.fresh()


def test_our_own_link_is_never_taken_for_there_when_it_is_gone(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it goes between the kernel's messages and the reading."""
    heard = FactCache._changes

    def and_then_it_goes(cache: FactCache) -> Iterator[frozenset[Part]]:
        yield from heard(cache)
        reader.node.ip(f"link del {OURS}")

    with monkeypatch.context() as patch:
        patch.setattr(FactCache, "_changes", and_then_it_goes)
        found, _ = reader.read()
    assert found.link(OURS) is None
    reader.agrees("deletion")


def test_more_events_than_fit_are_no_loss(reader: Reader) -> None:
    assert reader.cache._netlink
    reader.cache._netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    reader.node.ip(
        *(f"route add 10.0.{n >> 8}.{n & 255}/32 via 192.0.2.254" for n in range(3000)),
        "addr add 192.0.2.50/24 dev up0",
        "route add ::/0 dev up0",
    )
    found, read = reader.read()
    assert read == set(Part)
    assert found == reader.fresh()


def test_everything_is_read_now_and_then(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fact_cache, "LONGEST", 0)
    _, read = reader.read()
    assert read == set(Part)


def test_a_reading_that_fails_is_made_up_for(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    reader.node.ip("addr add 192.0.2.60/24 dev up0")
    for broken in ("local_routes", "link_again"):
        with monkeypatch.context() as patch:
            patch.setattr(fact_parts, broken, fails)
            with pytest.raises(OSError, match="Input/output"):
                reader.read()
    found, _ = reader.read()
    assert found == reader.fresh()
    assert "192.0.2.60" in {str(each.address) for each in found.addresses}
