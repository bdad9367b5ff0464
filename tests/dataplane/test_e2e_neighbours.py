"""Neighbours that aren't known yet, on nodes whose filters drop forwarded IPv4."""

from __future__ import annotations

import errno
import sys
import time

import pytest

from nat64_dataplane import pref64
from tests.lab.flows import end_all, start_all
from tests.lab.probes import udp_echo
from tests.lab.topology import PREFIX, ROUTER_V4, SERVER, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

_CONNECT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as tcp:
    tcp.settimeout(30)
    print(tcp.connect_ex((sys.argv[1], 80)))
"""


def drop_forwarded(lab: Line) -> None:
    """As Docker and many firewalls do."""
    lab.node.run(
        "nft",
        "add table ip filter; add chain ip filter forward "
        "{ type filter hook forward priority 0; policy drop; }",
    )


def flush(lab: Line) -> None:
    lab.node.ip("neigh flush all")


def test_nothing_depends_on_forwarding(lab: Line, nat64: Translator) -> None:
    drop_forwarded(lab)
    flush(lab)
    assert lab.curl("ok") == "ok"
    flush(lab)
    assert udp_echo(lab.pod, 100, 1452)
    flush(lab)
    assert "1 received" in lab.pod.run("ping", "-6", "-c", "1", "-W", "60", str(SERVER))


def test_flows_outlive_the_flush_of_all_neighbours(lab: Line, nat64: Translator) -> None:
    drop_forwarded(lab)
    flows = start_all(lab.pod)
    for _ in range(5):
        flush(lab)
        time.sleep(0.2)
    end_all(flows)


def test_a_neighbour_that_does_not_answer_is_unreachable_for_the_pod_too(
    lab: Line, nat64: Translator
) -> None:
    """The node hears "host unreachable" after three seconds, the pod within a few SYNs what that
    becomes in ICMPv6: no route (RFC 7915 section 4.2)."""
    nobody = ROUTER_V4 - 100
    for source, address, expected in (
        (lab.node, nobody, errno.EHOSTUNREACH),
        (lab.pod, pref64.embed(PREFIX, nobody), errno.ENETUNREACH),
    ):
        heard = int(source.run(sys.executable, "-c", _CONNECT, str(address)))
        assert heard == expected, errno.errorcode.get(heard)
