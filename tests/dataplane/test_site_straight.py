"""Replies through the tunnel go straight into the pod of a router node: who gets them so, and what
ends it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator

import pytest

from tests.lab.node import wait_for
from tests.lab.servers import pattern
from tests.lab.site import SERVER, Member, Site, site
from tests.lab.topology import ECHO_PORT, HTTP_PORT

pytestmark = pytest.mark.root

SIZE = 20_000_000
_ECHO = f"""
import socket, sys
answered, hops = 0, set()
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    sock.bind((sys.argv[1], 5000))
    sock.settimeout(float(sys.argv[3]))
    for number in range(int(sys.argv[2])):
        sent = number.to_bytes(4, "big")
        sock.sendto(sent, ("{SERVER}", {ECHO_PORT}))
        try:
            while True:
                got, [(_, _, limit)], _, _ = sock.recvmsg(64, 64)
                hops.add(limit)
                if got == sent:
                    answered += 1
                    break
        except TimeoutError:
            pass
print(answered, len(hops))
"""


@pytest.fixture(scope="module")
def one() -> Iterator[Site]:
    with site(gateways=1, routers=1) as built:
        yield built


def echoed(router: Member, count: int, patience: float = 60) -> tuple[int, int]:
    """How many datagrams of one flow come back to the pod, and with how many hop limits."""
    assert router.pod
    fields = (router.clients[0], count, patience)
    answered, limits = router.pod.run(sys.executable, "-c", _ECHO, *map(str, fields)).split()
    return int(answered), int(limits)


def straight(router: Member) -> float:
    return router.agent.metric("nat64_offloaded_packets_total", direction="4to6")


def goes_straight(router: Member) -> bool:
    """Whether some of many answers go straight into the pod; all of them come, and are alike."""
    before = straight(router)
    assert echoed(router, 100) == (100, 1)
    return straight(router) > before


def test_answers_of_a_known_flow_go_straight_into_the_pod(one: Site) -> None:
    router = one.routers[0]
    wait_for("the short way", lambda: goes_straight(router))


def test_a_download_is_whole_and_leaves_out_the_pod_s_link(one: Site) -> None:
    router = one.routers[0]
    assert router.pod
    pod = router.pod

    def sent() -> int:
        return int(router.node.run("cat", "/sys/class/net/pod0/statistics/tx_bytes"))

    def most_of_it_went_straight() -> bool:
        before = sent()
        url = f"http://[{SERVER}]:{HTTP_PORT}/bytes/{SIZE}"
        got = pod.run("sh", "-c", f"curl -gsS --max-time 60 '{url}' | sha256sum")
        assert got.split()[0] == hashlib.sha256(pattern(SIZE)).hexdigest()
        return sent() - before < SIZE // 2

    wait_for("the short way", most_of_it_went_straight)


def test_the_pod_s_own_rules_see_everything(one: Site) -> None:
    router = one.routers[0]
    assert router.pod
    wait_for("the short way", lambda: goes_straight(router))
    chain = "type filter hook input priority 0; policy accept"
    rules = f"table inet t {{ chain c {{ {chain}; udp sport {ECHO_PORT} drop; }}; }}\n"
    router.pod.run("nft", "-f", "-", input=rules)
    try:
        assert echoed(router, 20, 0.1) == (0, 0)
    finally:
        router.pod.run("nft", "delete", "table", "inet", "t")


def test_it_stays_off_where_others_look_at_what_goes_out(one: Site) -> None:
    """The chain drops everything, so whatever comes back has gone past it."""
    router = one.routers[0]
    wait_for("the short way", lambda: goes_straight(router))
    chain = "type filter hook egress device pod0 priority 0; policy drop;"
    rules = f"table netdev t {{ chain c {{ {chain} }}; }}\n"
    router.node.run("nft", "-f", "-", input=rules)
    try:
        wait_for("its end", lambda: echoed(router, 20, 0.1) == (0, 0))
        before = straight(router)
        assert echoed(router, 20, 0.1) == (0, 0)
        assert straight(router) == before
    finally:
        router.node.run("nft", "delete", "table", "netdev", "t")
    wait_for("its return", lambda: goes_straight(router))


def test_a_gateway_can_switch_it_off_and_on(one: Site) -> None:
    router = one.routers[0]
    wait_for("the short way", lambda: goes_straight(router))
    router.agent.configure(topology={"role": "Router"}, offloadFlows=False)
    try:
        wait_for("its end", lambda: not goes_straight(router))
        assert not goes_straight(router)
    finally:
        router.agent.configure(topology={"role": "Router"})
    wait_for("its return", lambda: goes_straight(router))
