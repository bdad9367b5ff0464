"""The CLAT's real agent among the network namespaces of a node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nat64_dataplane.clat.runtime_data import ANNOTATION
from tests.lab.clat import NETNS, PREFIX, Clat
from tests.lab.node import Lab, Node, wait_for

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machine() -> Iterator[Node]:
    """A node without pods."""
    with Lab() as lab:
        yield lab.node("node")


@pytest.fixture
def node(machine: Node) -> Iterator[Node]:
    """The same; what a test has left there is gone for the next one."""
    yield machine
    machine.run(
        "sh",
        "-c",
        f"for f in {NETNS}/*; do umount -l $f 2>/dev/null; rm -rf $f; done;"
        " rm -rf /sys/fs/bpf/nat64-clat /run/nat64-clat",
    )


@pytest.fixture
def agent(node: Node) -> Iterator[Clat]:
    """A running agent."""
    one = Clat(node)
    one.start()
    one.wait_ready()
    yield one
    if one.process and one.process.poll() is None:
        one.kill()
    one.close()


def make(node: Node, name: str, count: int = 1, kind: str = "ipv6") -> None:
    node.run(sys.executable, "-m", "tests.lab.namespaces", "make", name, str(count), kind)


def drop(node: Node, name: str, count: int = 1) -> None:
    node.run(sys.executable, "-m", "tests.lab.namespaces", "drop", name, str(count))


def looks(node: Node, pod: str) -> str:
    """All that an agent could change in a namespace."""
    return "".join(
        node.run(*command)
        for command in (
            ("ip", "-n", pod, "-o", "-4", "addr"),  # without the link's state, which may be late
            ("ip", "-n", pod, "-4", "route", "show", "table", "all"),
            ("tc", "-n", pod, "qdisc"),
            ("tc", "-n", pod, "filter", "show", "dev", "eth0", "egress"),
            ("tc", "-n", pod, "filter", "show", "dev", "eth0", "ingress"),
        )
    )


def has_clat(node: Node, pod: str) -> bool:
    """Whether all parts are there."""
    look = looks(node, pod)
    parts = ("192.0.0.2/32", "via inet6 fd64:7::1", "clat_egress", "clat_ingress")
    return all(part in look for part in parts)


def test_only_pods_without_ipv4_get_one(node: Node, agent: Clat) -> None:
    make(node, "six")
    make(node, "both", kind="ipv4")
    make(node, "bare", kind="bare")
    assert "address" not in agent.wait_pod("six-0")  # anybody may ask there
    wait_for("its address", lambda: agent.written("six-0").get("address") == "fd64:7::10")
    agent.wait_pod("both-0", "LeftAlone", "has_ipv4")
    agent.wait_pod("bare-0", "LeftAlone", "no_ipv6_route")
    assert has_clat(node, "six-0")
    for other in ("both-0", "bare-0"):
        assert "clat" not in looks(node, other)
        assert "192.0.0.2" not in looks(node, other)
    assert agent.metric("nat64_clat_pods") == 1
    assert agent.metric("nat64_clat_pods_left_alone", reason="has_ipv4") == 1


def test_a_pod_is_set_up_once_its_address_may_be_used(node: Node, agent: Clat) -> None:
    """An address that is still checked for duplicates is none."""
    make(node, "late", kind="bare")
    agent.wait_pod("late-0", "LeftAlone", "no_ipv6_route")
    node.run("ip", "-n", "late-0", "link", "set", "eth0", "arp", "on")
    node.run("ip", "-n", "late-0", "addr", "add", "fd64:7::10/64", "dev", "eth0", "nodad")
    node.run("ip", "-n", "late-0", "route", "add", "default", "via", "fd64:7::1")
    agent.wait_pod("late-0")
    assert has_clat(node, "late-0")


def test_a_next_hop_may_be_link_local(node: Node, agent: Clat) -> None:
    """As with most CNIs. The route follows when it changes."""
    make(node, "pod")
    agent.wait_pod("pod-0")
    change = "route replace default via fe80::1 dev eth0"
    node.run("ip", "-n", "pod-0", "-6", *change.split(" "))

    def route() -> str:
        return node.run("ip", "-n", "pod-0", "-4", "route")

    wait_for("the new next hop", lambda: "via inet6 fe80::1 dev eth0" in route())


def test_the_nodes_own_network_is_left_alone(node: Node, agent: Clat) -> None:
    node.run("ip", "addr", "add", "fd64:8::1/64", "dev", "lo")
    agent.mount(node, "host")
    make(node, "six")
    agent.wait_pod("six-0")
    assert agent.pod("host") == {}
    assert "clat" not in node.run("tc", "qdisc")


CHANGES = {
    "the egress program": "tc -n P filter del dev eth0 egress",
    "the ingress program": "tc -n P filter del dev eth0 ingress",
    "both programs": "tc -n P qdisc del dev eth0 clsact",
    "the address": "ip -n P addr del 192.0.0.2/32 dev eth0",
    "the route": "ip -n P -4 route del default",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_is_repaired(node: Node, agent: Clat, change: str) -> None:
    make(node, "pod")
    agent.wait_pod("pod-0")
    before = looks(node, "pod-0")
    node.run(*CHANGES[change].replace(" P ", " pod-0 ").split())
    wait_for("repair", lambda: looks(node, "pod-0") == before)
    wait_for("its count", lambda: agent.metric("nat64_clat_repairs_total") >= 1)


def test_the_route_follows_the_links_mtu_and_name(node: Node, agent: Clat) -> None:
    make(node, "pod")
    agent.wait_pod("pod-0")
    node.run("ip", "-n", "pod-0", "link", "set", "eth0", "mtu", "1400")

    def mtu() -> str:
        return node.run("ip", "-n", "pod-0", "-4", "route")

    wait_for("the new MTU", lambda: "mtu 1372" in mtu())
    node.run("ip", "-n", "pod-0", "link", "set", "eth0", "name", "net7")
    wait_for("all parts", lambda: "dev net7" in mtu())
    assert "clat_egress" in node.run("tc", "-n", "pod-0", "filter", "show", "dev", "net7", "egress")


def test_a_pod_that_gets_ipv4_later_is_left_alone_from_then_on(node: Node, agent: Clat) -> None:
    make(node, "pod")
    agent.wait_pod("pod-0")
    node.run("ip", "-n", "pod-0", "addr", "add", "10.0.0.2/24", "dev", "eth0")
    agent.wait_pod("pod-0", "LeftAlone", "has_ipv4")
    assert "192.0.0.2" not in looks(node, "pod-0")
    assert "clat" not in looks(node, "pod-0")


def test_an_agent_adopts_what_the_last_one_has_set_up(node: Node, agent: Clat) -> None:
    make(node, "pod", 3)
    for number in range(3):
        agent.wait_pod(f"pod-{number}")
    before = [looks(node, f"pod-{number}") for number in range(3)]
    agent.kill()
    agent.start()
    agent.wait_ready()
    assert agent.status()["setUp"] == 3
    assert [looks(node, f"pod-{number}") for number in range(3)] == before, "the same programs"


def test_another_version_replaces_the_programs_of_all_pods(node: Node, agent: Clat) -> None:
    """And then forgets those of the version before."""
    make(node, "pod", 2)
    agent.wait_pod("pod-0")
    agent.wait_pod("pod-1")
    before = [looks(node, f"pod-{number}") for number in range(2)]
    agent.kill()
    pins = "/sys/fs/bpf/nat64-clat/default"
    (version,) = node.run("ls", pins).split()
    node.run("mv", f"{pins}/{version}", f"{pins}/000000000000")  # as if they were another's
    agent.start()
    agent.wait_ready()
    for number in range(2):
        assert has_clat(node, f"pod-{number}")
        assert looks(node, f"pod-{number}") != before[number], "other programs"
    assert node.run("ls", pins).split() == [version]
    assert sorted(slots(node)) == ["1", "2"]


def test_pods_that_come_while_the_agent_is_down_are_caught_up_with(node: Node, agent: Clat) -> None:
    make(node, "old")
    make(node, "gone")
    agent.wait_pod("old-0")
    agent.wait_pod("gone-0")
    agent.stop()
    assert has_clat(node, "old-0"), "stopping takes nothing out"
    make(node, "new")
    drop(node, "gone")
    agent.start()
    agent.wait_pod("new-0")
    agent.wait_ready()
    assert has_clat(node, "new-0")
    assert agent.status()["setUp"] == 2


def test_removal_leaves_nothing(node: Node, agent: Clat) -> None:
    agent.stop()
    make(node, "pod", 2)
    plain = looks(node, "pod-0")
    agent.start()
    for number in range(2):
        agent.wait_pod(f"pod-{number}")
    agent.stop()
    assert "pod-0" in agent.remove()
    for number in range(2):
        assert looks(node, f"pod-{number}") == plain
    assert "nat64-clat" not in node.run("find", "/sys/fs/bpf", "/run")
    assert agent.remove() == ""


def test_removal_for_another_gateway_touches_nothing(node: Node, agent: Clat) -> None:
    make(node, "pod")
    agent.wait_pod("pod-0")
    agent.stop()  # so that nobody repairs
    before = looks(node, "pod-0")
    assert agent.run("remove", "--name", "other") == ""
    assert looks(node, "pod-0") == before
    assert has_clat(node, "pod-0")


def test_the_switch_takes_it_out_and_puts_it_in_again(node: Node, agent: Clat) -> None:
    make(node, "pod")
    agent.wait_pod("pod-0")
    agent.configure(None)
    wait_for("removal", lambda: "192.0.0.2" not in looks(node, "pod-0"))
    wait_for("removal", lambda: "clat" not in looks(node, "pod-0"))
    assert agent.status()["pods"] == []
    agent.configure(PREFIX)
    agent.wait_pod("pod-0")
    assert has_clat(node, "pod-0")


def test_a_pod_opts_out_by_its_annotation(node: Node, agent: Clat) -> None:
    """As soon as the runtime has written it down; the others get their names from there."""
    make(node, "pod", 2)
    agent.wait_pod("pod-0")
    agent.wait_pod("pod-1")
    for number in range(2):
        sandbox = agent.runtime_data / f"sandbox{number}"
        sandbox.mkdir(parents=True)
        annotations = {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-namespace": "web",
            "io.kubernetes.cri.sandbox-name": f"app-{number}",
        }
        if number:
            annotations[ANNOTATION] = "Off"
        network = {"type": "network", "path": f"/var/run/netns/pod-{number}"}
        config = {"annotations": annotations, "linux": {"namespaces": [network]}}
        (sandbox / "config.json").write_text(json.dumps(config))
    agent.wait_pod("pod-1", "LeftAlone", "opted_out")
    assert "clat" not in looks(node, "pod-1")
    assert "192.0.0.2" not in looks(node, "pod-1")
    wait_for("the name", lambda: agent.written("pod-0").get("name") == "app-0")
    assert agent.pod("pod-0")["state"] == "SetUp"


def test_what_is_no_network_namespace_does_no_harm(node: Node, agent: Clat) -> None:
    """Nothing is waited for, followed or entered that lies beside the namespaces."""
    make(node, "real")
    agent.wait_pod("real-0")
    node.run(
        "sh",
        "-ec",
        f"""cd {NETNS}
        mkfifo fifo
        ln -s fifo link-to-fifo
        ln -s real-0 link-to-namespace
        ln -s /dev/zero link-to-device
        echo text > file
        mkdir directory
        touch names && mount --bind /proc/self/ns/uts names
        touch zero && mount --bind /dev/zero zero
        mkfifo pipe && touch mounted && mount --bind pipe mounted
        """,
    )
    make(node, "next")
    agent.wait_pod("next-0")
    known = {pod["netns"] for pod in agent.status()["pods"]}
    assert known == {"real-0", "next-0"}
    agent.kill()
    agent.start()
    agent.wait_ready()
    assert agent.status()["setUp"] == 2
    agent.stop()
    agent.remove()
    assert "clat" not in looks(node, "next-0")


def test_a_pod_that_bends_its_own_set_up_harms_only_itself(node: Node, agent: Clat) -> None:
    """It points its filters at another pod's slot, and is repaired; the other is never touched."""
    make(node, "victim")
    agent.wait_pod("victim-0")
    make(node, "bad")
    agent.wait_pod("bad-0")
    victim = looks(node, "victim-0")
    bend = """
import socket, sys
from pathlib import Path
from pyroute2 import IPRoute
from nat64_dataplane.bpf import Program
with IPRoute() as ipr:
    (index,) = ipr.link_lookup(ifname="eth0")
    (pins,) = Path("/sys/fs/bpf/nat64-clat/default").iterdir()
    program = Program.open_pinned(pins / "clat_egress")
    ipr.tc("del", "clsact", index)
    ipr.tc("add", "clsact", index)
    for parent in (0xFFFFFFF3, 0xFFFFFFF2):
        ipr.tc("add-filter", "bpf", index, 7, fd=program.fd, name="nat64-clat:default",
               parent=parent, prio=1, classid=0xFFFF0001, direct_action=True)
"""
    node.run("nsenter", f"--net={NETNS}/bad-0", sys.executable, "-c", bend)
    wait_for("repair", lambda: "flowid ffff:1 " not in looks(node, "bad-0"))
    wait_for("repair", lambda: has_clat(node, "bad-0"))
    assert looks(node, "victim-0") == victim


def test_a_link_that_moves_to_another_pod_takes_no_program_along(node: Node, agent: Clat) -> None:
    make(node, "from")
    make(node, "to")
    agent.wait_pod("from-0")
    agent.wait_pod("to-0")
    untouched = looks(node, "to-0")
    node.run("ip", "-n", "from-0", "link", "set", "eth0", "name", "moved")
    node.run("ip", "-n", "from-0", "link", "set", "moved", "netns", f"{NETNS}/to-0")
    agent.wait_pod("from-0", "LeftAlone", "no_ipv6_route")
    assert "clat" not in node.run("tc", "-n", "to-0", "filter", "show", "dev", "moved", "egress")
    assert "clsact" not in node.run("tc", "-n", "to-0", "qdisc", "show", "dev", "moved")
    assert looks(node, "to-0").count("clat_") == untouched.count("clat_")
    make(node, "next")
    agent.wait_pod("next-0")


def test_a_pod_that_changes_its_network_all_the_time_keeps_nobody_waiting(
    node: Node, agent: Clat
) -> None:
    make(node, "busy")
    agent.wait_pod("busy-0")
    flood = """
from pyroute2 import IPRoute
with IPRoute() as ipr:
    (index,) = ipr.link_lookup(ifname="eth0")
    print("ready", flush=True)
    while True:
        ipr.addr("add", index=index, address="fd64:7::99", prefixlen=128)
        ipr.addr("del", index=index, address="fd64:7::99", prefixlen=128)
"""
    command = ("nsenter", f"--net={NETNS}/busy-0", sys.executable, "-c", flood)
    busy = node.start(*command, stdout=subprocess.PIPE)
    try:
        assert busy.stdout
        assert busy.stdout.readline() == "ready\n"
        make(node, "calm", 5)
        for number in range(5):
            agent.wait_pod(f"calm-{number}")
    finally:
        busy.kill()
        busy.wait()
    assert agent.pod("busy-0")["state"] == "SetUp"


AT_ONCE = 50


@pytest.mark.parametrize(
    "pods", [200, pytest.param(1000, marks=pytest.mark.slow)], ids=["200", "1000"]
)
def test_pods_that_come_and_go_leave_nothing_behind(node: Node, agent: Clat, pods: int) -> None:
    """No descriptor, no slot, and no memory that grows with each of them. There is one pair of
    programs for all, which hangs on nothing when the pods are gone."""
    assert agent.process
    pid = agent.process.pid
    loaded = kernel_objects(node)
    memory = []
    open_files = descriptors(pid)
    for turn in range(pods // AT_ONCE):
        make(node, "many", AT_ONCE)
        if turn % 2:  # the others may vanish while they are set up
            wait_for("all of them", lambda: agent.status()["setUp"] == AT_ONCE)
        drop(node, "many", AT_ONCE)
        wait_for("the end of all of them", lambda: agent.status()["pods"] == [])
        memory.append(resident(pid))
    wait_for("no descriptors", lambda: descriptors(pid) <= open_files)
    wait_for("no slots", lambda: slots(node) == [])
    assert memory[-1] - memory[3] < 16 << 20, memory
    assert agent.metric("nat64_clat_failures_total") == 0, agent.log()
    assert kernel_objects(node) == loaded, "one pair of programs and their maps for all pods"
    agent.stop()
    agent.remove()
    wait_for("their end", lambda: not any(is_loaded(node, *one) for one in loaded))


def kernel_objects(node: Node) -> list[tuple[str, int]]:
    """Kind and id of what the agent has pinned: a program or a map."""
    pins = node.run("sh", "-c", "echo /sys/fs/bpf/nat64-clat/default/*/*").split()
    found = []
    for pin in pins:
        kind = "prog" if "gress" in pin else "map"
        shown = json.loads(node.run("bpftool", "-j", kind, "show", "pinned", pin))
        found.append((kind, int(shown["id"])))
    assert len(found) == 4, pins
    return found


def is_loaded(node: Node, kind: str, number: int) -> bool:
    """Whether the kernel still has it. It frees programs a moment after their last user."""
    return '"id"' in node.run("bpftool", "-j", kind, "show", "id", str(number), check=False)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def resident(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def slots(node: Node) -> list[str]:
    """The slots that pods have in the programs' table."""
    code = """
from pathlib import Path
from nat64_dataplane.clat.programs import Programs
print("slots", *Programs.open(Path("/sys/fs/bpf/nat64-clat"), "default").slots())
"""
    return node.run(sys.executable, "-c", code).split()[1:]
