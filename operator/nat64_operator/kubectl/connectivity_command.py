"""`kubectl nat64 test`, the command: starts pods, gives them requests, prints, and cleans up."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from nat64_operator.kubectl import (
    agents,
    checks,
    connectivity,
    connectivity_verdicts,
    disruption,
    disruption_command,
    doctor,
    facts,
    trace,
)
from nat64_operator.kubectl.cluster import Cluster
from nat64_operator.kubectl.connectivity import Node, Wish
from nat64_operator.kubectl.exec_output import ClusterError
from nat64_operator.kubectl.output import EXIT_OK, EXIT_UNWELL, progress, say, show
from nat64_operator.kubectl.probe_pods import Image, Pods, operators_image, running
from nat64_operator.kubectl.targets import split_target

PUBLIC = "ipv4.google.com:443"
PUBLIC_UDP = "8.8.8.8:53"
PUBLIC_DUAL_STACK = "dns.google"
"""The target if no --target is given; this needs the internet."""
MAX_NODES = 3
START_SECONDS = 120
TLS_PORTS = (443, 8443)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `test`."""
    parser.add_argument(
        "--target",
        default="",
        metavar="HOST[:PORT]",
        help=f"a TCP server whose name has IPv4 only, or its IPv4 address [{PUBLIC}]",
    )
    parser.add_argument(
        "--udp",
        default="",
        metavar="HOST:PORT",
        help="a server that answers datagrams [the target's port 53]",
    )
    parser.add_argument(
        "--dual-stack", default="", metavar="NAME", help="a name that has IPv4 and IPv6"
    )
    parser.add_argument(
        "--exempt",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that must not be synthesized; may be given several times",
    )
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        help=f"a node to test from; may be given several times [{MAX_NODES} that translate]",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="CHECK",
        help=f"leave a check out: {', '.join(connectivity.CHECKS)}",
    )
    parser.add_argument("--image", default="", help="an image with python3 [the operator's own]")
    parser.add_argument(
        "--disruption",
        action="store_true",
        help="keep flows open while COMMAND (after --) runs, for --duration, or until Ctrl-C; "
        "then count what broke. The target must speak HTTP",
    )
    parser.add_argument("--flows", type=int, default=4, help="flows of each node [%(default)s]")
    parser.add_argument("--duration", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--tls", action="store_true", help="HTTPS on a port other than 443 or 8443")


def hint_at_target(options: argparse.Namespace) -> None:
    """For a run without a named target: the cluster may just not reach the internet."""
    if not options.target:
        say(
            f"no --target is given, so it was {PUBLIC}, which is on the internet. Where the "
            "cluster does not reach that, name one of yours that has IPv4 only: --target HOST:PORT"
        )


def run(cluster: Cluster, options: argparse.Namespace) -> int:
    """Test; the exit code is 1 if a check failed. Raises ClusterError."""
    host, port = split_target(options.target or PUBLIC)
    skip = connectivity.check_skip(options.skip)
    _check(options)
    nodes = _nodes(cluster, options)
    namespace = options.namespace or options.operator_namespace
    image = (
        Image(options.image)
        if options.image
        else operators_image(cluster, options.operator_namespace)
    )
    pods = Pods(cluster, namespace, image)
    names = [node.name for node in nodes]
    with _ended_by_signals(), running(pods, say):
        if options.disruption:
            tls = options.tls or port in TLS_PORTS
            given = disruption.flows(connectivity.absolute(host), port, options.flows, tls)
            pods.start(names, given, seconds=int(options.duration) or 86400)
            _wait(pods, options)
            try:
                return disruption_command.run(pods, options)
            except ClusterError:
                hint_at_target(options)
                raise
        pods.start(names)
        _wait(pods, options)
        wish = _wish(options, host, port, skip)
        return _connectivity(cluster, pods, nodes, wish, options)


def _check(options: argparse.Namespace) -> None:
    if not options.disruption:
        if options.run:
            raise ClusterError("a command after -- needs --disruption")
        return
    if not 1 <= options.flows <= 100:
        raise ClusterError(f"--flows {options.flows}: from 1 to 100")
    if not options.run and not options.duration and not sys.stdin.isatty():
        raise ClusterError("--disruption: give --duration SECONDS, or a command after --")


def _wish(options: argparse.Namespace, host: str, port: int, skip: frozenset[str]) -> Wish:
    public = not options.target
    udp = options.udp or (PUBLIC_UDP if public else "")
    udp_host, udp_port = split_target(udp) if udp else ("", connectivity.DNS_PORT)
    return Wish(
        host=host,
        port=port,
        udp_host=udp_host,
        udp_port=udp_port,
        dual_stack=options.dual_stack or (PUBLIC_DUAL_STACK if public else ""),
        exempt=tuple(options.exempt),
        skip=skip,
    )


def _nodes(cluster: Cluster, options: argparse.Namespace) -> list[Node]:
    """The nodes to test from. Raises ClusterError if one of them does not translate."""
    gateways = {g["metadata"]["name"]: g for g in facts.gateways(cluster)}
    policies = facts.some(partial(facts.policies, cluster))
    found = agents.find(cluster, options.operator_namespace)
    if not found:
        raise ClusterError("no node translates: `kubectl nat64 doctor` looks for the reason")
    on: dict[str, set[str]] = {}
    for agent in found:
        if agent.gateway in gateways:
            on.setdefault(agent.node, set()).add(agent.gateway)
    for name in options.node:
        if name not in on:
            raise ClusterError(f"--node {name}: no translator there; there are {', '.join(on)}")
    chosen = options.node or sorted(on)[:MAX_NODES]
    if len(chosen) < len(on) and not options.node:
        say(f"testing from {', '.join(chosen)} of {len(on)} nodes; --node names others")
    pools: dict[str, set[str]] = {}
    # A router node has no IPv4 addresses, and those of a gateway node can be reached by way of
    # another one, as those of any other host.
    asked = [agent for agent in found if not agent.router and agent.node in chosen]
    for report in facts.statuses(cluster, asked):
        mine = {pool["address"] for row in report.data or () for pool in row.get("pools") or ()}
        pools.setdefault(report.agent.node, set()).update(mine)
    return [
        Node(
            name=name,
            gateways=[gateways[g] for g in sorted(on[name])],
            policies=[
                p
                for p in policies
                if ((p["spec"].get("gatewayRef") or {}).get("name") or "default") in on[name]
            ],
            addresses=sorted(pools.get(name, ())),
        )
        for name in dict.fromkeys(chosen)
    ]


def _wait(pods: Pods, options: argparse.Namespace) -> None:
    progress(options, f"starting a pod on {', '.join(pods.by_node)}")
    for node, reason in pods.why_not_running(START_SECONDS, time.sleep).items():
        raise ClusterError(f"the pod on {node} does not run after {START_SECONDS} s: {reason}")


def _connectivity(
    cluster: Cluster, pods: Pods, nodes: Sequence[Node], wish: Wish, options: argparse.Namespace
) -> int:
    def test(node: Node) -> doctor.Section:
        asked = connectivity.requests(node, wish)
        progress(options, f"{node.name}: {len(asked)} checks")
        answers = dict(zip(asked, pods.ask(node.name, list(asked.values())), strict=True))
        explain = partial(_explain, cluster, pods, node.name, wish, options)
        steps = list(connectivity_verdicts.judge(node, wish, answers, explain))
        return doctor.Section(f"node {node.name}", steps)

    progress(options, f"testing from {len(nodes)} nodes")
    sections = agents.together(test, nodes)
    plain = {"passed": doctor.is_well(sections), "checks": doctor.plain(sections)}
    show(options, plain, lambda paint: doctor.text(sections, paint))
    if not plain["passed"]:
        hint_at_target(options)
    return EXIT_OK if plain["passed"] else EXIT_UNWELL


def _explain(
    cluster: Cluster, pods: Pods, node: str, wish: Wish, options: argparse.Namespace
) -> tuple[str, str]:
    target = facts.Target(pods.namespace, pods.by_node[node], wish.host, wish.port, "")
    try:
        walked = trace.judge(facts.for_trace(cluster, options.operator_namespace, target))
    except ClusterError as error:
        return str(error), "`kubectl nat64 doctor`"
    last = checks.end(walked)
    if last is None:
        return "", "a trace finds nothing in the way: try again, and see `kubectl nat64 doctor`"
    return f"{last.name}: {last.text}", last.remedy


@contextmanager
def _ended_by_signals() -> Any:
    """SIGTERM ends a run as Ctrl-C does, so that the pods are deleted."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
