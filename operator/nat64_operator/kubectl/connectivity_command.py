"""`kubectl nat64 test`, the command: starts pods, has them work, prints, and cleans up."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from nat64_operator.kubectl import agents, checks, connectivity, disruption, doctor, facts, trace
from nat64_operator.kubectl.cluster import Cluster
from nat64_operator.kubectl.connectivity import Node, Wish
from nat64_operator.kubectl.exec_output import ClusterError, Json
from nat64_operator.kubectl.output import Paint, to_json
from nat64_operator.kubectl.probe_pods import Image, Pods, operators_image, running
from nat64_operator.kubectl.targets import split_target

PUBLIC = "ipv4.google.com:443"
PUBLIC_UDP = "8.8.8.8:53"
PUBLIC_DUAL_STACK = "dns.google"
"""What is asked where no --target is given; that needs the internet."""
MAX_NODES = 3
START_SECONDS = 120
TLS_PORTS = (443, 8443)
CODE_OK, CODE_BAD = 0, 1


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


def run(cluster: Cluster, options: argparse.Namespace) -> int:
    """Test; the exit code is 1 where something failed. Raises ClusterError."""
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
    with _ended_by_signals(), running(pods, _say):
        if options.disruption:
            tls = options.tls or port in TLS_PORTS
            given = disruption.flows(connectivity.absolute(host), port, options.flows, tls)
            pods.start(names, given, seconds=int(options.duration) or 86400)
            _wait(pods, options)
            return _disruption(pods, options)
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
    """The nodes to test from. Raises ClusterError where one does not translate."""
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
        _say(f"testing from {', '.join(chosen)} of {len(on)} nodes; --node names others")
    pools: dict[str, set[str]] = {}
    for report in facts.statuses(cluster, [agent for agent in found if agent.node in chosen]):
        for row in report.data or ():
            for pool in row.get("pools") or ():
                pools.setdefault(report.agent.node, set()).add(pool["address"])
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
        steps = list(connectivity.judge(node, wish, answers, explain))
        return doctor.Section(f"node {node.name}", steps)

    sections = agents.together(test, nodes)
    plain = {"passed": doctor.is_well(sections), "checks": doctor.plain(sections)}
    _print(options, plain, lambda paint: doctor.text(sections, paint))
    return CODE_OK if plain["passed"] else CODE_BAD


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


def _disruption(pods: Pods, options: argparse.Namespace) -> int:
    nodes = list(pods.by_node)
    before = _until(pods, nodes, lambda _, report: disruption.established(report))
    for node, report in before.items():
        if not disruption.established(report):
            why = (report["opened"]["failed"] or [{"why": "the server answers no HTTP request"}])[
                -1
            ]
            raise ClusterError(f"{node}: no flow could be opened: {why['why']}")
    code = _while_open(options)
    ended = {node: _report(pods, node)["now"] for node in nodes}
    progress(options, "waiting for an answer on every flow")
    after = _until(pods, nodes, lambda node, report: disruption.settled(report, ended[node]))
    found = {**disruption.summary(before, after), "commandExitCode": code}
    sections = disruption.sections(found)
    _print(options, found, lambda paint: doctor.text(sections, paint))
    if code:
        _say(f"the command ended with exit code {code}")
    return CODE_OK if doctor.is_well(sections) and not code else CODE_BAD


def _while_open(options: argparse.Namespace) -> int | None:
    """What the flows are to outlive; the exit code of the user's command, if there is one."""
    if options.run:
        progress(options, f"flows are open; running {' '.join(options.run)}")
        # What it prints must not come into the JSON of ours.
        try:
            return subprocess.run(options.run, check=False, stdout=sys.stderr).returncode
        except OSError as error:
            raise ClusterError(f"{options.run[0]}: {error.strerror}") from error
    if options.duration:
        progress(options, f"flows are open for {options.duration:g} s")
        time.sleep(options.duration)
        return None
    _say("flows are open; press Ctrl-C when what they are to outlive is done")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return None


def _until(
    pods: Pods, nodes: Sequence[str], good: Callable[[str, Json], bool]
) -> Mapping[str, Json]:
    """Reports of all nodes, once all are good or flows have had their time."""
    deadline = time.monotonic() + disruption.SILENCE + 10
    while True:
        reports = dict(zip(nodes, agents.together(partial(_report, pods), nodes), strict=True))
        if all(good(node, report) for node, report in reports.items()):
            return reports
        if time.monotonic() > deadline:
            return reports
        time.sleep(1)


def _report(pods: Pods, node: str) -> Json:
    """What a pod counted so far; its first report may still be on its way."""
    for _ in range(10):
        try:
            return pods.read(node, disruption.REPORT_PATH)
        except ClusterError as error:
            last = error
            time.sleep(1)
    raise last


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


def progress(options: argparse.Namespace, text: str) -> None:
    """On a terminal, what is being waited for."""
    if sys.stderr.isatty() and options.output != "json":
        _say(text)


def _say(text: str) -> None:
    print(f"kubectl nat64: {text}", file=sys.stderr)


def _print(options: argparse.Namespace, plain: object, people: Callable[[Paint], str]) -> None:
    print(to_json(plain) if options.output == "json" else people(Paint.of(sys.stdout)))
