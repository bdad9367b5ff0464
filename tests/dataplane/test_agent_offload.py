"""Flow offload on a node: where the agent has it, who ends it, and what it leaves behind."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator

import pytest

from tests.lab.node import ROOT, Node, wait_for
from tests.lab.topology import SERVER, Line, line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

DISCARD = 9999
SEND = f"""
import socket, sys
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
    sock.bind(("::", 5000))
    for _ in range(int(sys.argv[1])):
        sock.sendto(b"datagram", ("{SERVER}", {DISCARD}))
"""
STRANGER = """
import socket, sys
from pathlib import Path
from nat64_dataplane.translator.node import bpf_link
from tests.dataplane import passprog
program = passprog.load()
if sys.argv[1] == "tcx":
    index = socket.if_nametoindex("pod0")
    program = bpf_link.attach_tcx(program, index, bpf_link.TCX_INGRESS)
bpf_link.pin(program, Path("/sys/fs/bpf/stranger"))
"""


@pytest.fixture(scope="module", params=["auto", "clsact"])
def either(request: pytest.FixtureRequest) -> Iterator[tuple[Line, Translator]]:
    """A lab whose node attaches by the kernel's way, and one by the older way, where a pod's link
    gets its hook half a minute late: one for the tests of the file.
    """
    with line() as built:
        one = Translator(built.node)
        one.arguments = ["--attach", request.param]
        one.started()
        wait_for("the hook", lambda: links(built.node) == {"pod0"})
        yield built, one
        one.close()


def send(pod: Node, count: int) -> None:
    """Datagrams of one flow."""
    pod.run(sys.executable, "-c", SEND, str(count))


def offloaded(translator: Translator) -> float:
    return translator.metric("nat64_offloaded_packets_total", direction="6to4")


def translated(translator: Translator) -> float:
    return translator.metric("nat64_translated_packets_total", direction="6to4")


def until_offloaded(translator: Translator, pod: Node) -> None:
    """Send until packets of the flow skip the node's forwarding."""
    before = offloaded(translator)

    def more() -> bool:
        send(pod, 100)
        return offloaded(translator) > before

    wait_for("offload", more)


def links(node: Node) -> set[str]:
    """Where the node has the hook, by either way to attach."""
    found = set()
    names = {}
    for shown in node.run("ip", "-o", "link").splitlines():
        index, name = shown.split(": ")[:2]
        names[index] = name.partition("@")[0]
    pins = node.run("sh", "-c", "ls /sys/fs/bpf/nat64-operator/default/links 2>/dev/null || true")
    for pin in pins.split():
        index, _, direction = pin.partition("-")
        if direction == "offload":
            found.add(names.get(index, f"gone {index}"))
    for name in names.values():
        if "nat64-offload:" in node.run("tc", "filter", "show", "dev", name, "ingress"):
            found.add(name)
    return found


def test_packets_of_a_known_flow_skip_the_node_s_forwarding(
    either: tuple[Line, Translator],
) -> None:
    lab, hooked = either
    lab.internet.run("nft", "-f", "-", input=COUNT.format(rule=f"udp dport {DISCARD} counter drop"))

    def arrives() -> bool:  # once all nodes on the way know their neighbours
        send(lab.pod, 1)
        return counted(lab.internet) > 0

    wait_for("the first", arrives)
    until_offloaded(hooked, lab.pod)
    wait_for("all of them", lambda: counted(lab.internet) == translated(hooked))


COUNT = "table inet seen {{ chain c {{ type filter hook prerouting priority -300; {rule}; }}; }}\n"
DENY = (
    "table inet denied {{ chain c {{ type filter hook forward priority 0; "
    "ip6 daddr {server} counter drop; }}; }}\n"
)


def counted(node: Node, table: str = "seen") -> int:
    found = re.search(r"packets (\d+)", node.run("nft", "list", "table", "inet", table))
    assert found
    return int(found[1])


def test_a_new_rule_ends_a_known_flow_within_a_second(either: tuple[Line, Translator]) -> None:
    """As a NetworkPolicy does that is applied while a connection is in use."""
    lab, hooked = either
    until_offloaded(hooked, lab.pod)
    lab.node.run("nft", "-f", "-", input=DENY.format(server=SERVER))
    time.sleep(1.1)  # the second in which the flow was last let pass is over
    already = counted(lab.node, "denied")
    before = offloaded(hooked)
    send(lab.pod, 200)
    wait_for("the refusal of all", lambda: counted(lab.node, "denied") == already + 200)
    assert offloaded(hooked) == before
    lab.node.run("nft", "delete", "table", "inet", "denied")


def test_its_removal_leaves_nothing(either: tuple[Line, Translator]) -> None:
    """Last of those that share a translator."""
    lab, hooked = either
    until_offloaded(hooked, lab.pod)
    hooked.stop()
    hooked.remove()
    assert not links(lab.node)
    assert "clsact" not in lab.node.run("tc", "qdisc", "show", "dev", "pod0")


def test_a_gateway_can_switch_it_off_and_on(lab: Line, tcx: Translator) -> None:
    tcx.configure(offloadFlows=False)
    wait_for("its end", lambda: not links(lab.node))
    before = offloaded(tcx)
    send(lab.pod, 500)
    assert offloaded(tcx) == before
    tcx.configure()
    wait_for("its return", lambda: links(lab.node) == {"pod0"})
    until_offloaded(tcx, lab.pod)


def test_it_follows_pods_as_they_come_and_go(lab: Line, tcx: Translator) -> None:
    lab.pod.join(lab.node, "eth1", "pod1")
    wait_for("the new pod's link", lambda: links(lab.node) == {"pod0", "pod1"})
    lab.node.ip("link del pod1")
    wait_for("its end", lambda: links(lab.node) == {"pod0"})
    assert "repaired" not in tcx.log(), "nobody has changed what was set up"


def test_pods_that_share_a_bridge_have_it_there(lab: Line, tcx: Translator) -> None:
    lab.node.ip(
        "link add cni0 type bridge",
        "link set cni0 up",
        "addr del fd64:1::1/64 dev pod0",
        "addr add fd64:1::1/64 dev cni0 nodad",
        "link set pod0 master cni0",
    )
    wait_for("the bridge's hook", lambda: links(lab.node) == {"cni0"})
    until_offloaded(tcx, lab.pod)


OTHERS = {
    "a tcx program": (
        f"{sys.executable} -c '{STRANGER}' tcx",
        "rm /sys/fs/bpf/stranger",
    ),
    "a filter": (
        f"{sys.executable} -c '{STRANGER}' filter && tc qdisc replace dev pod0 clsact && "
        "tc filter add dev pod0 ingress prio 9 bpf da object-pinned /sys/fs/bpf/stranger",
        "tc filter del dev pod0 ingress prio 9",
    ),
    "a bandwidth limit": (
        "tc qdisc add dev pod0 ingress",
        "tc qdisc del dev pod0 ingress",
    ),
    "nftables at the link": (
        "nft add table netdev t && "
        "nft add chain netdev t c '{ type filter hook ingress device pod0 priority 0; }'",
        "nft delete table netdev t",
    ),
    "nftables at several links": (
        "nft add table netdev t && "
        "nft add chain netdev t c '{ type filter hook ingress devices = { eth0, pod0 } "
        "priority 0; }'",
        "nft delete table netdev t",
    ),
}


@pytest.mark.parametrize("which", OTHERS)
def test_it_stays_off_where_others_look_at_what_comes_in(
    lab: Line, tcx: Translator, which: str
) -> None:
    come, go = OTHERS[which]
    wait_for("the hook", lambda: links(lab.node) == {"pod0"})
    lab.node.run("sh", "-c", come, cwd=ROOT)
    wait_for("its end", lambda: not links(lab.node))
    assert "no flow offload where programs of others are: pod0" in tcx.log()
    assert lab.curl("ok") == "ok"
    lab.node.run("sh", "-c", go)
    wait_for("its return", lambda: links(lab.node) == {"pod0"})


def test_two_gateways_don_t_take_each_other_for_strangers(lab: Line, tcx: Translator) -> None:
    other = Translator(
        lab.node,
        "other",
        prefix="2001:db8:64::/96",
        listen="[::]:9555",
        pools=[{"addresses": "198.51.100.7", "ports": "1024-65535"}],
    )
    other.arguments = tcx.arguments
    with_both = other.started()
    try:
        until_offloaded(tcx, lab.pod)
        assert links(lab.node) == {"pod0"}
        assert "programs of others" not in tcx.log() + with_both.log()
    finally:
        other.close()
