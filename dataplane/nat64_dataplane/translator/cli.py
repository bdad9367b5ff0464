"""`nat64-translator`: runs a translator on this node, and shows what it does."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

from pyroute2 import IPRoute

from nat64_dataplane.agent_process import EXIT_FAILED, EXIT_OK, fail, hold, run_command
from nat64_dataplane.errors import HostError
from nat64_dataplane.http_server import parse_listen
from nat64_dataplane.translator import agent, agent_options, config_file
from nat64_dataplane.translator.advertise import withdrawal
from nat64_dataplane.translator.node import capabilities, fact_parts, node_sysctls
from nat64_dataplane.translator.removal import Removal
from nat64_dataplane.translator.report import (
    node_inspection,
    show_commands,
    show_topology,
    trace,
)
from nat64_dataplane.translator.run_directory import DEFAULT_RUN_DIR

NODE_NAME, NODE_FILE = "NODE_NAME", "NAT64_NODE_FILE"
NODE_ADDRESS, GATEWAYS, ROUTERS = "NODE_ADDRESS", "NAT64_GATEWAYS", "NAT64_ROUTERS"
"""From the environment, so that commands in the pod use the same places as its agent."""
_DEFAULT_LISTEN = "[::]:9464"


_PROGRAM = "nat64-translator"
_NEEDS = "`run` needs CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON, the other commands root"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns 0, 1 for a failure, 2 for a bad config or usage, 3 where another agent is in the way.
    """
    return run_command(_parser().parse_args(arguments), _PROGRAM, _NEEDS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        one.add_argument(
            "--pins",
            type=Path,
            default=agent_options.DEFAULT_PINS,
            help="where state is pinned, on bpffs (default: %(default)s)",
        )
        one.add_argument(
            "--run-dir",
            type=Path,
            default=DEFAULT_RUN_DIR,
            help="where lock and status are (default: %(default)s)",
        )
        return one

    run = add("run", _run, "Translate as the config file says, and repair what others change.")
    run.add_argument("--config", type=Path, required=True)
    _add_node_file(run)
    run.add_argument(
        "--prepare", action="store_true", help="set the node's sysctls first, as `prepare` does"
    )
    run.add_argument(
        "--attach", choices=("auto", "tcx", "clsact"), default="auto", help=argparse.SUPPRESS
    )
    once = add("prepare", _prepare, "Set the node's sysctls and mount bpffs: needs privileges.")
    once.add_argument("--config", type=Path, required=True)
    remove = add("remove", _remove, "Take a translator off this node, and leave nothing of it.")
    which = remove.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", type=Path)
    which.add_argument("--name", help="the translator's name")
    remove.add_argument(
        "--hold", action="store_true", help="then stay, and answer on /readyz, until stopped"
    )
    remove.add_argument(
        "--listen",
        default="",
        help=f"address for --hold (default: the config's, {_DEFAULT_LISTEN})",
    )
    check = add("check", _check, "Say whether a config file is good, and what it means here.")
    check.add_argument("--config", type=Path, required=True)
    for name, command, text in (
        ("status", show_commands.status, "Show the translators of this node."),
        (
            "bib",
            show_commands.bib,
            "Show the binding information base: which client has which port.",
        ),
        ("sessions", show_commands.sessions, "Show the session table."),
        (
            "drops",
            show_commands.drops,
            "Show counters: what was translated, and why packets were not.",
        ),
        (
            "topology",
            show_topology.topology,
            "Show this node's role in topology Gateway, and the gateway nodes as it sees them.",
        ),
    ):
        one = add(name, command, text)
        one.add_argument("--name", help="the translator (default: the only one)")
        one.add_argument("-o", "--output", choices=("table", "json"), default="table")
        if name in ("bib", "sessions"):
            one.add_argument("--client", type=IPv6Address, help="of this IPv6 address only")
        if name == "sessions":
            one.add_argument("--remote", type=IPv4Network, help="to this IPv4 range only")
    _add_diagnosis(add)
    return parser


def _add_node_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--node-file",
        type=Path,
        default=os.environ.get(NODE_FILE),
        help="what differs by node: its addresses of ranges that nodes share, and pod ranges "
        f"(default: the environment's {NODE_FILE})",
    )
    parser.add_argument(
        "--node",
        default=os.environ.get(NODE_NAME, ""),
        help=f"this node's name there (default: the environment's {NODE_NAME})",
    )
    parser.add_argument(
        "--gateways",
        type=Path,
        default=os.environ.get(GATEWAYS),
        help="topology Gateway: the gateway nodes, as JSON "
        f"(default: the environment's {GATEWAYS})",
    )
    parser.add_argument(
        "--routers",
        type=Path,
        default=os.environ.get(ROUTERS),
        help="topology Gateway, on gateway nodes: the router nodes, as JSON "
        f"(default: the environment's {ROUTERS})",
    )
    parser.add_argument(
        "--node-address",
        type=_ipv6_or_none,
        default=os.environ.get(NODE_ADDRESS, ""),
        help="this node's IPv6 address among the nodes "
        f"(default: the environment's {NODE_ADDRESS}, or what the kernel would use)",
    )


def _ipv6_or_none(text: str) -> IPv6Address | None:
    """The first IPv6 address of a list; a node's may be an IPv4 address, which says nothing."""
    for each in filter(None, text.split(",")):
        with contextlib.suppress(AddressValueError):
            return IPv6Address(each)
        IPv4Address(each)
    return None


def _add_diagnosis(add: Callable[..., argparse.ArgumentParser]) -> None:
    """What `kubectl nat64 doctor` and `trace` run on a node; JSON only."""
    look = add("inspect", node_inspection.run, "Print what this node looks like to its translator.")
    way = add("trace", trace.run, "Print a client's way to a destination, as this node sees it.")
    for one in (look, way):
        one.add_argument("--config", type=Path, default=node_inspection.DEFAULT_CONFIG)
        _add_node_file(one)
    way.add_argument("--client", type=IPv6Address, required=True, help="who sends")
    way.add_argument("--destination", type=IPv6Address, action="append", default=[])
    way.add_argument("--host", help="a name to resolve, whose addresses are destinations")
    way.add_argument("--server", default="::1", help="the resolver (default: %(default)s)")
    way.add_argument("--dns-port", type=int, default=53, help=argparse.SUPPRESS)
    way.add_argument("--link", help="where its packets come in (default: the way back to it)")
    way.add_argument("--names-only", action="store_true", help="resolve, and connect to nothing")
    way.add_argument("--port", type=int, default=443, help="TCP port (default: %(default)s)")


def _run(options: argparse.Namespace) -> int:
    if options.prepare:
        _prepare(options)
    asyncio.run(
        agent.Agent(
            agent_options.Options(
                config=options.config,
                pins=options.pins,
                run_dir=options.run_dir,
                attach_by=options.attach,
                node_file=options.node_file,
                node=options.node,
                gateways=options.gateways,
                routers=options.routers,
                node_address=options.node_address,
            )
        ).run()
    )
    return EXIT_OK


def _prepare(options: argparse.Namespace) -> int:
    config = config_file.load(options.config)
    capabilities.check()
    if mounted := node_sysctls.mount_bpffs():
        print(mounted)
    with IPRoute(strict_check=True) as ipr:
        found, ra_links = fact_parts.read(ipr), node_sysctls.links_with_ra(ipr)
    for line in node_sysctls.prepare(config, found, ra_links, options.run_dir):
        print(line)
    try:
        for line in withdrawal.withdraw(options.run_dir / config.name, config):
            print(f"withdrawn: {line}")
    except (HostError, OSError) as error:
        # The agent tries on, and hosts forget in the end: no reason not to translate.
        fail(_PROGRAM, error)
    return EXIT_OK


def _remove(options: argparse.Namespace) -> int:
    config = config_file.load(options.config) if options.config else None
    removal = Removal(config.name if config else options.name, options.pins, options.run_dir)
    for line in removal.run():
        print(f"removed {line}", flush=True)
    for note in removal.notes:
        fail(_PROGRAM, note)
    for failure in removal.failures:
        fail(_PROGRAM, f"not removed: {failure}")
    for setting in removal.unrestored:
        fail(_PROGRAM, f"not restored, needs privileges: {setting}")
    # With --hold, settings that stay behind must not keep a whole rollout from ending.
    if removal.failures or (removal.unrestored and not options.hold):
        return EXIT_FAILED
    if options.hold:
        listen = options.listen or (config.listen if config else _DEFAULT_LISTEN)
        asyncio.run(hold(listen))
    return EXIT_OK


def _check(options: argparse.Namespace) -> int:
    config = config_file.load(options.config)
    if config.listen:
        parse_listen(config.listen)
    pools = ", ".join(f"{pool.addresses} {pool.ports}" for pool in config.pools)
    print(f"ok: {config.name} translates {config.prefix} to {pools} (config {config.content_hash})")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
