"""Network namespaces: two nodes, the internet, which is also the nodes' router, and a further node
without IPv4 that joins where a test wants one.

Links are made inside them only. The machine's own namespace gets no link and no route, so nothing
that happens in the cluster can leave the machine. Addresses are from the documentation ranges
(RFC 5737, RFC 3849) and ULA.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.controlplane import POD_RANGE, POD_RANGE_IPV4
from tests.cluster.run import ClusterError, run

INTERNET = "nat64-cluster-internet"
ROUTER_IPV4, ROUTER_IPV6 = "192.0.2.1", "2001:db8:1::1"

DNS_IPV4, DNS_IPV6 = "198.51.100.53", "2001:db8:64::53"
HTTP_IPV4, HTTP_IPV4_OTHER, HTTP_IPV6 = "198.51.100.80", "203.0.113.80", "2001:db8:64::80"
SERVERS = (DNS_IPV4, DNS_IPV6, HTTP_IPV4, HTTP_IPV4_OTHER, HTTP_IPV6)


@dataclass(frozen=True)
class Host:
    """A node's names and addresses."""

    name: str
    ipv4: str
    """Empty where the node has none."""
    ipv6: str

    @property
    def namespace(self) -> str:
        return f"nat64-cluster-{self.name}"


NODE1 = Host("node1", "192.0.2.11", "2001:db8:1::11")
NODE2 = Host("node2", "192.0.2.12", "2001:db8:1::12")
HOSTS = (NODE1, NODE2)
NAMESPACES = (INTERNET, *(host.namespace for host in HOSTS))
# Neither started nor missed with the others: `Cluster.join` starts it.
NODE3 = Host("node3", "", "2001:db8:1::13")
JOINING = (NODE3,)


def create() -> None:
    """Make the namespaces and the one segment that joins them."""
    run(["ip", "netns", "add", INTERNET])
    _ip(
        INTERNET,
        "link add lan type bridge",
        # Every address is usable at once: duplicates are not detected, there are none.
        f"addr add {ROUTER_IPV4}/24 dev lan",
        f"addr add {ROUTER_IPV6}/64 dev lan nodad",
        *(f"addr add {address} dev lo nodad" for address in SERVERS),
        "link set lan up",
        "link set lo up",
    )
    _sysctl(INTERNET, "ipv4/ip_forward", "1")
    _sysctl(INTERNET, "ipv6/conf/all/forwarding", "1")
    for host in HOSTS:
        connect(host)


def connect(host: Host) -> None:
    """Make a node's namespace, and its link to the segment."""
    run(["ip", "netns", "add", host.namespace])
    _ip(host.namespace, f"link add eth0 type veth peer name {host.name} netns {INTERNET}")
    _ip(INTERNET, f"link set {host.name} master lan up")
    _ip(
        host.namespace,
        "link set lo up",
        "link set eth0 up",
        f"addr add {host.ipv6}/64 dev eth0 nodad",
        f"route add default via {ROUTER_IPV6}",
    )
    if host.ipv4:
        _ip(
            host.namespace,
            f"addr add {host.ipv4}/24 dev eth0",
            f"route add default via {ROUTER_IPV4}",
        )
    for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        _sysctl(host.namespace, family, "1")


def route_pods(ranges: dict[Host, list[str]], namespaces: tuple[str, ...] | None = None) -> None:
    """Tell everyone behind which node each pod range is, as a cloud or a routing CNI would; where
    a CNI tells the nodes by itself, only the internet's namespace is told.
    """
    for owner, subnets in ranges.items():
        for namespace in existing() if namespaces is None else namespaces:
            if namespace != owner.namespace:
                for pods in subnets:
                    gateway = owner.ipv6 if ":" in pods else owner.ipv4
                    _ip(namespace, f"route replace {pods} via {gateway}")
    # What no node has taken is nowhere, rather than back at the router.
    for nowhere in (POD_RANGE, POD_RANGE_IPV4):
        _ip(INTERNET, f"route replace unreachable {nowhere}")


def processes(namespace: str) -> list[int]:
    """Every process in a namespace; none when there is no such namespace."""
    return [int(pid) for pid in run(["ip", "netns", "pids", namespace], check=False).split()]


def first_process(namespace: str) -> int | None:
    """The process of a namespace that is number 1 of the PID namespace below this one's."""
    depth = len(_numbers(os.getpid())) + 1
    for pid in processes(namespace):
        numbers = _numbers(pid)
        if len(numbers) == depth and numbers[-1] == "1":
            return pid
    return None


def end(namespaces: Sequence[str]) -> None:
    """Kill every process in these namespaces, then remove those that there are."""
    deadline = time.monotonic() + 30
    # Killing a node's first process ends the others with it, in whatever namespaces they are.
    while pids := [pid for name in namespaces for pid in processes(name)]:
        if time.monotonic() > deadline:
            raise ClusterError(f"processes {pids} do not end")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for namespace in namespaces:
        if (Path("/run/netns") / namespace).exists():
            run(["ip", "netns", "del", namespace])


def unroute_pods(ranges: list[str]) -> None:
    """Have everyone forget a node's pod ranges."""
    for namespace in existing():
        for pods in ranges:
            run(["ip", "-n", namespace, "route", "del", pods], check=False)


def existing() -> list[str]:
    """Those of our namespaces that there are."""
    further = (host.namespace for host in JOINING)
    return [
        namespace
        for namespace in (*NAMESPACES, *further)
        if (Path("/run/netns") / namespace).exists()
    ]


def _numbers(pid: int) -> list[str]:
    """A process's numbers, from the outermost PID namespace inwards."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]


def _ip(namespace: str, *commands: str) -> None:
    for command in commands:
        family = "-6" if ":" in command else "-4"
        run(["ip", family, "-n", namespace, *command.split()])


def _sysctl(namespace: str, name: str, value: str) -> None:
    script = 'echo "$1" > "/proc/sys/net/$0"'
    run(["nsenter", f"--net=/run/netns/{namespace}", "sh", "-c", script, name, value])
