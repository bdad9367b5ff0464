"""`make demo`: from nothing to an IPv6-only pod that fetches from an IPv4-only name, and from a
literal.

Everything in it is real: the cluster, the chart, the two resources, the DNS servers, the packets.
Each step prints what it did and how long it took; the last line starts with `demo: ok`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from nat64_dataplane import pref64
from tests.cluster import Cluster
from tests.cluster.product import GATEWAY, PREFIX, Pod, Product
from tests.cluster.run import ClusterError

NAME = "ipv4only.internet.example"
NODE = "node2"
WITH_CLAT = {**GATEWAY, "spec": {**GATEWAY["spec"], "clat": {"mode": "Pods"}}}


def main() -> int:
    """Run the demo; return the exit code."""
    began = time.monotonic()
    cluster = Cluster()
    product = Product(cluster, gateway=WITH_CLAT)
    print("An IPv6-only pod is to reach a server that has IPv4 only, by name and by literal.\n")
    with step("a two-node Kubernetes cluster, IPv6-only pods and services"):
        cluster.up()
    with step("both images, built and imported into the nodes"):
        cluster.load_images()
    with step("helm install nat64-operator"):
        product.install()
    with step("kubectl apply: one NAT64Gateway, one DNS64Policy; both Ready"):
        product.apply()
        product.wait_ready()
    pod = Pod(cluster, "demo", NODE)
    with step("a pod"):
        pod.start()
    try:
        show(product, pod)
    finally:
        pod.delete()
    print(
        "demo: ok, an IPv6-only pod fetched from an IPv4-only name, and from an IPv4 literal; "
        f"{time.monotonic() - began:.0f} s in all (`make demo-down` removes everything)"
    )
    return 0


def show(product: Product, pod: Pod) -> None:
    """Resolve, fetch, and print what happened; raise ClusterError where it didn't."""
    seen = product.cluster.kubectl("get", "pod", pod.name, "-o", "jsonpath={.status.podIPs[*].ip}")
    [client] = pod.addresses(6)
    require(seen.split() == [client], f"Kubernetes says that the pod has {seen}, not {client}")
    [a] = lookup(pod, "A")
    [aaaa] = lookup(pod, "AAAA")
    expected = pref64.embed(IPv6Network(PREFIX), IPv4Address(a))
    require(IPv6Address(aaaa) == expected, f"AAAA is {aaaa}, not {expected}")
    body, milliseconds = fetch(pod, f"http://{NAME}/", "-6")
    saw = body.split("\n", 1)[0].removeprefix("client ")
    node_ipv4 = product.cluster.node(NODE).host.ipv4
    require(saw == node_ipv4, f"the server saw {saw}, not {NODE}'s {node_ipv4}")
    sessions = [s for s in product.translator(NODE, "sessions") if f"[{client}]" in s["client"]]
    require(bool(sessions), "the translator has no session of the pod")
    session = sessions[-1]
    literal = f"http://{a}/"
    # The pod may be quicker than the agent that gives it its CLAT.
    over_ipv4, its_time = fetch(pod, literal, "-4", "--retry", "5", "--retry-all-errors")
    require(f"client {saw}\n" in over_ipv4, f"{literal} by an IPv4 socket: {over_ipv4!r}")
    rows = {
        "pod": f"{client}, the only address that Kubernetes knows",
        "name": NAME,
        "A": f"{a}, all that its authoritative server has",
        "AAAA": f"{aaaa}, synthesized by DNS64 behind the cluster's CoreDNS",
        "fetch": f"http://{NAME}/ in {milliseconds:.1f} ms",
        "server saw": f"{saw}, the IPv4 address of {NODE}",
        "session": f"{session['protocol']} {session['client']} -> {session['address']}"
        f" -> {session['remote']} {session['state']}",
        "literal": f"{literal} over an AF_INET socket in {its_time:.1f} ms, by the pod's CLAT",
    }
    print()
    for title, text in rows.items():
        print(f"  {title:>10}  {text}")
    print()


def lookup(pod: Pod, kind: str) -> list[str]:
    """The addresses that the pod's resolver, the cluster's CoreDNS, answers."""
    answers = pod.exec("dig", "+short", NAME, kind).split()
    require(len(answers) == 1, f"{NAME} {kind}: {len(answers)} answers, not one: {answers}")
    return answers


def fetch(pod: Pod, url: str, *options: str) -> tuple[str, float]:
    """Fetch a page; return its body and the time that it took, in milliseconds."""
    form = "\n%{json}"
    done = pod.exec("curl", "-sS", "--max-time", "10", *options, "-w", form, url)
    body, _, facts = done.rpartition("\n")
    return body, json.loads(facts)["time_total"] * 1000


def require(holds: bool, otherwise: str) -> None:
    """Stop the demo with a sentence where something isn't as promised."""
    if not holds:
        raise ClusterError(otherwise)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Print a line once a step is done; what it says on the way is shown as it comes."""
    began = time.monotonic()
    yield
    print(f"  ✓ {title}  ({time.monotonic() - began:.1f} s)", flush=True)


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"demo: failed: {error}")
