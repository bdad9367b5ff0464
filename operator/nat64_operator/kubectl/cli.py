"""The command `kubectl nat64`, which kubectl finds as `kubectl-nat64` in the user's PATH."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv6Network

from nat64_operator.errors import OperatorError
from nat64_operator.kubectl import agents, checks, doctor, facts, sessions, status, trace
from nat64_operator.kubectl.cluster import Cluster
from nat64_operator.kubectl.exec_output import ClusterError
from nat64_operator.kubectl.output import Paint, to_json

EXIT_OK, EXIT_UNWELL, EXIT_FAILED = 0, 1, 2
DEFAULT_PORT = 443
_EPILOG = """\
exit codes: 0 all is well; 1 something is not ready, or the trace stops; 2 the question could not
be answered.

It reads with your own rights: list nat64gateways and dns64policies, get and list pods, and get
and create pods/exec in the operator's namespace. What you may not read is said, and left out.
"""

Command = Callable[[Cluster, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(Cluster.connect(options.kubeconfig, options.context), options)
    except OperatorError as error:
        print(f"kubectl nat64: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `| head` has seen enough; what is still buffered must not fail at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _status(cluster: Cluster, options: argparse.Namespace) -> int:
    gateways = facts.gateways(cluster)
    policies = facts.some(partial(facts.policies, cluster))
    found = agents.find(cluster, options.operator_namespace)
    built = status.build(gateways, policies, facts.statuses(cluster, found))
    _print(options, built, lambda paint: status.render(built, paint))
    return EXIT_OK if status.is_well(built) else EXIT_UNWELL


def _sessions(cluster: Cluster, options: argparse.Namespace) -> int:
    return _flows(cluster, options, "sessions", sessions.SESSION_COLUMNS)


def _bib(cluster: Cluster, options: argparse.Namespace) -> int:
    return _flows(cluster, options, "bib", sessions.BIB_COLUMNS)


def _flows(
    cluster: Cluster, options: argparse.Namespace, command: str, columns: Sequence[str]
) -> int:
    argv, node = [command, "-o", "json"], options.node
    if options.pod:
        pod = facts.pod(cluster, *_pod_name(options.pod, options.namespace or cluster.namespace))
        addresses = trace.addresses(pod, 6)
        if not addresses:
            raise ClusterError(f"pod {options.pod} has no IPv6 address")
        argv += ["--client", addresses[0]]
        node = pod["spec"]["nodeName"]
    remote = None
    if options.destination:
        gateways = facts.gateways(cluster)
        prefixes = [IPv6Network(g["spec"]["prefix"]) for g in gateways]
        remote = sessions.destination(options.destination, prefixes)
        if command == "sessions":
            argv += ["--remote", str(remote)]
    found = agents.find(cluster, options.operator_namespace, node)
    reports = agents.ask_all(cluster, found, lambda a: (*argv, "--name", a.gateway))
    rows = sessions.merge(reports, sessions.owners(facts.pods(cluster, node)))
    if remote is not None and command == "bib":
        held = sessions.clients_with(remote, _all_sessions(cluster, found, str(remote)))
        rows = [row for row in rows if (row["protocol"], row["client"]) in held]
    _print(options, rows, lambda paint: sessions.render(rows, columns, paint))
    failed = [report for report in reports if report.error]
    for report in failed:
        print(f"kubectl nat64: {report.agent.node}: {report.error}", file=sys.stderr)
    if node and not found:
        raise ClusterError(f"{node} has no translator, or there is no such node")
    return EXIT_UNWELL if failed else EXIT_OK


def _all_sessions(cluster: Cluster, found: list[agents.Agent], remote: str) -> list[agents.Report]:
    argv = ("sessions", "-o", "json", "--remote", remote)
    return agents.ask_all(cluster, found, lambda a: (*argv, "--name", a.gateway))


def _trace(cluster: Cluster, options: argparse.Namespace) -> int:
    namespace, pod = _pod_name(options.pod, options.namespace or cluster.namespace)
    host, port = split_target(options.target)
    target = facts.Target(namespace, pod, host, port, options.dns_server)
    walked = trace.judge(facts.for_trace(cluster, options.operator_namespace, target))
    last = checks.end(walked)
    plain = {
        "pod": f"{namespace}/{pod}",
        "host": host,
        "port": port,
        "reached": last is None,
        "stopsAt": last.name if last else None,
        "steps": [step.plain() for step in walked],
    }
    _print(options, plain, lambda paint: checks.render(walked, paint))
    return EXIT_UNWELL if last else EXIT_OK


def _doctor(cluster: Cluster, options: argparse.Namespace) -> int:
    sections = doctor.judge(facts.for_doctor(cluster, options.operator_namespace))
    _print(options, doctor.plain(sections), lambda paint: doctor.text(sections, paint))
    return EXIT_OK if doctor.is_well(sections) else EXIT_UNWELL


def split_target(text: str) -> tuple[str, int]:
    """Host and port of `name`, `name:80`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.

    Raises ClusterError.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or str(DEFAULT_PORT)
        good = bool(bracket)
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        good = True
    else:
        host, port, good = text, str(DEFAULT_PORT), True
    if not good or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ClusterError(f"{text!r}: write HOST or HOST:PORT, as in registry.example:443")
    return host.rstrip("."), int(port)


def _pod_name(text: str, namespace: str) -> tuple[str, str]:
    before, slash, name = text.partition("/")
    return (before, name) if slash else (namespace, text)


def _print(options: argparse.Namespace, plain: object, people: Callable[[Paint], str]) -> None:
    print(to_json(plain) if options.output == "json" else people(Paint.of(sys.stdout)))


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-o", "--output", choices=("table", "json"), default="table")
    shared.add_argument("-n", "--namespace", default="", help="the pod's namespace")
    shared.add_argument("--kubeconfig", help="the kubeconfig file")
    shared.add_argument("--context", help="its context to use")
    shared.add_argument(
        "--operator-namespace", default="nat64-system", help="where the chart is [%(default)s]"
    )
    parser = argparse.ArgumentParser(
        prog="kubectl nat64",
        description="See what NAT64 and DNS64 do in this cluster, and why they don't.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, parents=[shared])
        one.set_defaults(command=command)
        return one

    add("status", _status, "Show gateways, nodes, sessions, ports and drops.")
    for name, command, text in (
        ("sessions", _sessions, "Show sessions: who talks to whom, through which port."),
        ("bib", _bib, "Show bindings: which pod holds which IPv4 address and port."),
    ):
        one = add(name, command, text)
        one.add_argument("--pod", default="", metavar="[NAMESPACE/]POD", help="of this pod only")
        one.add_argument("--node", default="", help="on this node only")
        one.add_argument("--destination", default="", metavar="ADDRESS|RANGE", help="to there only")
    way = add("trace", _trace, "Walk a pod's way to a host, and say where it stops.")
    way.add_argument("pod", metavar="[NAMESPACE/]POD")
    way.add_argument("target", metavar="HOST[:PORT]", help=f"TCP port {DEFAULT_PORT} if not given")
    way.add_argument("--dns-server", default="", help="ask this resolver, not the cluster's DNS")
    add("doctor", _doctor, "Check cluster and nodes, with a remedy for what is wrong.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
