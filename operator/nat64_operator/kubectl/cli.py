"""The command `kubectl nat64`, which kubectl finds as `kubectl-nat64` in the user's PATH."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv6Network
from pathlib import Path

from nat64_operator.errors import OperatorError
from nat64_operator.kubectl import (
    agents,
    bundle,
    checks,
    completion,
    connectivity_command,
    doctor,
    facts,
    probe_pods,
    sessions,
    status,
    trace,
    version,
)
from nat64_operator.kubectl.cluster import Cluster
from nat64_operator.kubectl.exec_output import ClusterError
from nat64_operator.kubectl.output import EXIT_FAILED, EXIT_OK, EXIT_UNWELL, progress, say, show
from nat64_operator.kubectl.targets import DEFAULT_PORT, pod_name, split_target

_EPILOG = """\
exit codes: 0 all is well; 1 something is not ready, the trace stops, a test failed, or a bundle
lacks something; 2 the question could not be answered, or the command line is wrong; 130
interrupted.

It reads with your own rights: list nat64gateways and dns64policies, get and list pods, and get
and create pods/exec in the operator's namespace. The output says what you may not read, and leaves
it out. `test` also creates and deletes pods there.
"""

DEBUG = "NAT64_DEBUG"
"""An environment variable: if it is set, a fault of the program shows its traceback."""
Command = Callable[[Cluster, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser_ = parser()
    if words[:1] == ["__complete"]:
        print("\n".join(completion.complete(parser_, words[1:])))
        return EXIT_OK
    # The words after -- are a command of the user's, with options of its own.
    cut = words.index("--") if "--" in words else len(words)
    options = parser_.parse_args(words[:cut])
    options.run = words[cut + 1 :]
    if options.command is _completion:
        print(completion.SHIM, end="")
        return EXIT_OK
    command: Command = options.command
    try:
        if options.run and command is not _test:
            raise ClusterError("a command after -- is for `test --disruption` only")
        cluster = Cluster.connect(options.kubeconfig, options.context, options.as_user)
        return command(cluster, options)
    except OperatorError as error:
        print(f"kubectl nat64: {error}", file=sys.stderr)
        return EXIT_FAILED
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if os.environ.get(DEBUG):
            raise
        print(
            "kubectl nat64: an answer of the cluster can't be read "
            f"({type(error).__name__}: {error}). Are the operator and its agents of another "
            "version than this program? `kubectl nat64 version` shows them. "
            f"{DEBUG}=1 shows where it failed",
            file=sys.stderr,
        )
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, as `| head`, has closed the pipe; the buffered rest must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _status(cluster: Cluster, options: argparse.Namespace) -> int:
    gateways = facts.gateways(cluster)
    policies = facts.some(partial(facts.policies, cluster))
    unread: dict[str, str] = {}
    find = partial(agents.find, cluster, options.operator_namespace)
    found = facts.some(find, "agents", unread)
    _asking(options, found)
    reports = facts.statuses(cluster, found)
    unread |= {report.agent.node: report.error for report in reports if report.forbidden}
    # Everybody who may read the objects may read what the operator says about them.
    for what, why in unread.items():
        say(f"{what}: {why}")
    clats = [r for r in agents.ask_clats(cluster, found) if not r.forbidden]
    standings = agents.ask_topology(cluster, found)
    built = status.build(
        gateways, policies, [r for r in reports if not r.forbidden], clats, standings
    )
    show(options, built, lambda paint: status.render(built, paint))
    return EXIT_OK if status.is_well(built) else EXIT_UNWELL


def _asking(options: argparse.Namespace, found: Sequence[agents.Agent]) -> None:
    if found:
        progress(options, f"asking {len(found)} agents")


def _sessions(cluster: Cluster, options: argparse.Namespace) -> int:
    return _flows(cluster, options, "sessions", sessions.SESSION_COLUMNS)


def _bib(cluster: Cluster, options: argparse.Namespace) -> int:
    return _flows(cluster, options, "bib", sessions.BIB_COLUMNS)


def _flows(
    cluster: Cluster, options: argparse.Namespace, command: str, columns: Sequence[str]
) -> int:
    argv, node = [command, "-o", "json"], options.node
    if options.pod:
        pod = facts.pod(cluster, *pod_name(options.pod, options.namespace or cluster.namespace))
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
    if options.pod:  # which may be on a node that steers
        found = agents.translating(cluster, options.operator_namespace, found)
    found = [agent for agent in found if not agent.router]
    _asking(options, found)
    reports = agents.ask_all(cluster, found, lambda a: (*argv, "--name", a.gateway))
    rows = sessions.merge(reports, sessions.owners(facts.pods(cluster, node)))
    if remote is not None and command == "bib":
        held = sessions.clients_with(remote, _all_sessions(cluster, found, str(remote)))
        rows = [row for row in rows if (row["protocol"], row["client"]) in held]
    show(options, rows, lambda paint: sessions.render(rows, columns, paint))
    failed = [report for report in reports if report.error]
    for report in failed:
        print(f"kubectl nat64: {report.agent.node}: {report.error}", file=sys.stderr)
    if node and not found:
        raise ClusterError(f"{node} does not translate, or there is no such node")
    return EXIT_UNWELL if failed else EXIT_OK


def _all_sessions(cluster: Cluster, found: list[agents.Agent], remote: str) -> list[agents.Report]:
    argv = ("sessions", "-o", "json", "--remote", remote)
    return agents.ask_all(cluster, found, lambda a: (*argv, "--name", a.gateway))


def _trace(cluster: Cluster, options: argparse.Namespace) -> int:
    namespace, pod = pod_name(options.pod, options.namespace or cluster.namespace)
    host, port = split_target(options.target)
    target = facts.Target(namespace, pod, host, port, options.dns_server)
    progress(options, f"following the path of {namespace}/{pod} to {host}")
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
    show(options, plain, lambda paint: checks.render(walked, paint))
    return EXIT_UNWELL if last else EXIT_OK


def _doctor(cluster: Cluster, options: argparse.Namespace) -> int:
    progress(options, "reading the cluster and asking its nodes")
    sections = doctor.judge(facts.for_doctor(cluster, options.operator_namespace))
    show(options, doctor.plain(sections), lambda paint: doctor.text(sections, paint))
    return EXIT_OK if doctor.is_well(sections) else EXIT_UNWELL


def _test(cluster: Cluster, options: argparse.Namespace) -> int:
    return connectivity_command.run(cluster, options)


def _bundle(cluster: Cluster, options: argparse.Namespace) -> int:
    target = Path(options.file or f"nat64-bundle-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    if not target.name.endswith(".tar.gz"):
        raise ClusterError(f"--file {target}: the name must end in .tar.gz")
    tell = partial(progress, options)
    made = bundle.gather(cluster, options.operator_namespace, tell)
    made.write(target, with_addresses=options.with_addresses)
    plain = {"file": str(target), "files": len(made.files), "missing": made.missing}
    lines = [f"{target}: {len(made.files)} files", *map(": ".join, made.missing.items())]
    lines[1:1] = [f"{len(made.missing)} could not be read:"] if made.missing else []
    show(options, plain, lambda _: "\n".join(lines))
    return EXIT_UNWELL if made.missing else EXIT_OK


def _version(cluster: Cluster, options: argparse.Namespace) -> int:
    path = f"/apis/apps/v1/namespaces/{options.operator_namespace}"
    operators = cluster.items(f"{path}/deployments", labelSelector=probe_pods.OPERATOR)
    found = version.build(
        operators, cluster.items(f"{path}/daemonsets", labelSelector=agents.SELECTOR)
    )
    show(options, found, lambda _: version.render(found))
    return EXIT_OK


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-o", "--output", choices=("table", "json"), default="table")
    shared.add_argument("-n", "--namespace", default="", help="the pod's namespace")
    shared.add_argument("--as", dest="as_user", default="", metavar="USER", help="impersonate USER")
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
    way = add("trace", _trace, "Follow a pod's path to a host, and say where it stops.")
    way.add_argument("pod", metavar="[NAMESPACE/]POD")
    way.add_argument("target", metavar="HOST[:PORT]", help=f"TCP port {DEFAULT_PORT} if not given")
    way.add_argument("--dns-server", default="", help="ask this resolver, not the cluster's DNS")
    add("doctor", _doctor, "Check cluster and nodes, with a remedy for what is wrong.")
    test = add("test", _test, "Test connectivity from short-lived pods, and clean up.")
    connectivity_command.add_arguments(test)
    archive = add("bundle", _bundle, "Make one archive for a bug report.")
    archive.add_argument("--file", default="", metavar="NAME.tar.gz", help="where to write it")
    archive.add_argument(
        "--with-addresses",
        action="store_true",
        help="leave addresses of pods and servers, and names in query logs, as they are",
    )
    add("version", _version, "Show the versions of this program, the operator and the agents.")
    add("completion", _completion, "Print kubectl_complete-nat64, by which kubectl completes.")
    return parser


def _completion(_: Cluster, __: argparse.Namespace) -> int:
    """`main` handles this command, because it needs no cluster."""
    raise AssertionError


def complete() -> int:
    """The command `kubectl_complete-nat64`, which kubectl finds in the user's PATH."""
    return main(["__complete", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
