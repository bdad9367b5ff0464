"""Flow offload into pods on a node: whom it reaches, who ends it, and that nothing is lost."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.node import ROOT, wait_for
from tests.lab.servers import pattern
from tests.lab.topology import ECHO_PORT, SERVER, Line
from tests.lab.translator import Translator, translator

pytestmark = pytest.mark.root

ECHO = f"""
import socket, sys
answered = 0
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
    sock.bind(("::", 5000))
    sock.settimeout(float(sys.argv[2]))
    for number in range(int(sys.argv[1])):
        sent = number.to_bytes(4, "big")
        sock.sendto(sent, ("{SERVER}", {ECHO_PORT}))
        try:
            while sock.recv(64) != sent:
                pass
            answered += 1
        except TimeoutError:
            pass
print(answered)
"""
STRANGER = """
import os, socket, sys, time
from pathlib import Path
from nat64_dataplane.translator.node import bpf_link
from tests.dataplane import passprog
kind, device = sys.argv[1:]
if kind == "xdp":
    program = passprog.load(passprog.XDP_DROP, passprog.XDP)
else:
    program = passprog.load(passprog.SHOT)
if kind == "tcx":
    index = socket.if_nametoindex(device)
    program = bpf_link.attach_tcx(program, index, bpf_link.TCX_EGRESS)
bpf_link.pin(program, Path("/sys/fs/bpf/stranger"))
"""

PROGRAM = f"{sys.executable} -c '{STRANGER}'"


@pytest.fixture(params=["auto", "clsact"])
def hooked(lab: Line, request: pytest.FixtureRequest) -> Iterator[Translator]:
    """A ready translator, with the kernel's way to attach programs, and with the older one."""
    one = Translator(lab.node)
    one.arguments = ["--attach", request.param]
    yield one.started()
    one.close()


def echoed(lab: Line, count: int, patience: float = 20) -> int:
    """How many datagrams of one flow come back to the pod."""
    return int(lab.pod.run(sys.executable, "-c", ECHO, str(count), str(patience)))


def straight(translator: Translator) -> float:
    return translator.metric("nat64_offloaded_packets_total", direction="4to6")


def goes_straight(lab: Line, translator: Translator) -> bool:
    """Whether some of many datagrams go straight into the pod; all of them come back."""
    before = straight(translator)
    assert echoed(lab, 100) == 100
    return straight(translator) > before


def test_answers_of_a_known_flow_go_straight_into_the_pod(lab: Line, hooked: Translator) -> None:
    wait_for("the short way", lambda: goes_straight(lab, hooked))


def test_a_download_is_whole_and_leaves_out_the_pod_s_link(
    lab: Line, nat64: Translator, tmp_path: Path
) -> None:
    """As GSO packets, with checksums that no device has completed."""
    size = 20_000_000

    def sent() -> int:
        return int(lab.node.run("cat", "/sys/class/net/pod0/statistics/tx_bytes"))

    def received() -> int:
        return int(lab.pod.run("cat", "/sys/class/net/eth0/statistics/rx_bytes"))

    def most_of_it_went_straight() -> bool:
        before, inside = sent(), received()
        lab.curl(f"bytes/{size}", "-o", str(tmp_path / "file"))
        data = (tmp_path / "file").read_bytes()
        assert hashlib.sha256(data).digest() == hashlib.sha256(pattern(size)).digest()
        assert received() - inside > size, "the pod's own count has everything"
        return sent() - before < size // 2

    wait_for("the short way", most_of_it_went_straight)


def test_the_pod_s_own_rules_and_programs_see_everything(lab: Line, nat64: Translator) -> None:
    wait_for("the short way", lambda: goes_straight(lab, nat64))
    lab.pod.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    lab.pod.run("sh", "-c", f"{PROGRAM} filter eth0", cwd=ROOT)
    lab.pod.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
    pinned = "bpf da object-pinned /sys/fs/bpf/stranger"
    lab.pod.run(*f"tc filter add dev eth0 ingress {pinned}".split())
    assert echoed(lab, 20, 0.1) == 0
    lab.pod.run("tc", "qdisc", "del", "dev", "eth0", "clsact")
    wait_for("the short way", lambda: goes_straight(lab, nat64))
    hook = "type filter hook input priority 0; policy accept"
    rules = f"chain c {{ {hook}; udp sport {ECHO_PORT} drop; }}"
    lab.pod.run("nft", "-f", "-", input=f"table inet t {{ {rules}; }}\n")
    assert echoed(lab, 20, 0.1) == 0


CLSACT = "(tc qdisc show dev pod0 | grep -q clsact || tc qdisc add dev pod0 clsact)"
OTHERS = {
    "a tcx program": (f"{PROGRAM} tcx pod0", "rm /sys/fs/bpf/stranger"),
    "a filter": (
        f"{PROGRAM} filter pod0 && {CLSACT} && "
        "tc filter add dev pod0 egress prio 9 bpf da object-pinned /sys/fs/bpf/stranger",
        "tc filter del dev pod0 egress prio 9",
    ),
    "a queue": (
        "tc qdisc add dev pod0 root pfifo limit 0",
        "tc qdisc del dev pod0 root",
    ),
    "nftables at the link": (
        "nft add table netdev t && nft add chain netdev t c "
        "'{ type filter hook egress device pod0 priority 0; policy drop; }'",
        "nft delete table netdev t",
    ),
}


@pytest.mark.parametrize("which", OTHERS)
def test_it_stays_off_where_others_look_at_what_goes_out(
    request: pytest.FixtureRequest, lab: Line, nat64: Translator, which: str
) -> None:
    """Each of them drops everything, so whatever comes back has gone past it."""
    come, go = OTHERS[which]
    if which == "a tcx program":
        request.getfixturevalue("tcx")
    wait_for("the short way", lambda: goes_straight(lab, nat64))
    lab.node.run("sh", "-c", come, cwd=ROOT)
    said = "no flow offload into pods where programs of others are: pod0"
    wait_for("its end", lambda: said in nat64.log() and echoed(lab, 20, 0.1) == 0)
    before = straight(nat64)
    assert echoed(lab, 20, 0.1) == 0
    assert straight(nat64) == before
    lab.node.run("sh", "-c", go)
    wait_for("its return", lambda: goes_straight(lab, nat64))


def test_it_stays_off_where_the_pod_has_an_xdp_program(lab: Line, nat64: Translator) -> None:
    """That runs in the driver of the pod's link, which the short way leaves out."""
    wait_for("the short way", lambda: goes_straight(lab, nat64))
    lab.pod.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
    lab.pod.run("sh", "-c", f"{PROGRAM} xdp eth0", cwd=ROOT)
    lab.pod.ip("link set dev eth0 xdpdrv pinned /sys/fs/bpf/stranger")
    wait_for("its end", lambda: echoed(lab, 20, 0.1) == 0)
    lab.pod.ip("link set dev eth0 xdpdrv off")
    wait_for("its return", lambda: goes_straight(lab, nat64))


def test_a_gateway_can_switch_it_off_and_on(lab: Line, nat64: Translator) -> None:
    wait_for("the short way", lambda: goes_straight(lab, nat64))
    nat64.configure(offloadFlows=False)
    wait_for("its end", lambda: not goes_straight(lab, nat64))
    assert not goes_straight(lab, nat64)
    nat64.configure()
    wait_for("its return", lambda: goes_straight(lab, nat64))


def test_pods_that_share_a_bridge_get_everything_by_it(lab: Line, nat64: Translator) -> None:
    wait_for("the short way", lambda: goes_straight(lab, nat64))
    lab.node.ip(
        "link add cni0 type bridge",
        "link set cni0 up",
        "addr del fd64:1::1/64 dev pod0",
        "addr add fd64:1::1/64 dev cni0 nodad",
        "link set pod0 master cni0",
    )
    wait_for("the bridge", lambda: echoed(lab, 1, 1) == 1)
    wait_for("its end", lambda: not goes_straight(lab, nat64))
    assert not goes_straight(lab, nat64)


@pytest.fixture
def other(lab: Line) -> Iterator[Translator]:
    more = {"prefix": "2001:db8:64::/96", "listen": "[::]:9555"}
    pools = [{"addresses": "198.51.100.7", "ports": "1024-65535"}]
    with translator(lab.node, "other", pools=pools, **more) as running:
        yield running


def test_two_gateways_don_t_take_each_other_for_strangers(
    lab: Line, nat64: Translator, other: Translator
) -> None:
    wait_for("the short way", lambda: goes_straight(lab, nat64))
    assert "programs of others" not in nat64.log() + other.log()
