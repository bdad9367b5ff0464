"""The command `nat64-dns64`: run the sidecar, check its Corefile, explain an answer."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
from pathlib import Path

import dns.exception

from nat64_dataplane import log_format
from nat64_dataplane.corefile import CorefileError
from nat64_dataplane.dns64 import settings as settings_module
from nat64_dataplane.dns64.app import App
from nat64_dataplane.dns64.report.explain import Request, explain
from nat64_dataplane.dns64.settings import Settings

DEFAULT_COREFILE = Path("/etc/nat64-dns64/Corefile")
"""Where the DaemonSet mounts it."""


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 for a failure, 2 for a refused Corefile."""
    arguments = _parser().parse_args(argv)
    try:
        log_format.set_up(sys.stdout, "[%(levelname)s] %(message)s")
    except ValueError as error:
        print(f"nat64-dns64: {error}", file=sys.stderr)
        return 1
    try:
        settings = settings_module.from_file(arguments.corefile)
    except (CorefileError, OSError) as error:
        print(f"nat64-dns64: {error}", file=sys.stderr)
        return 2
    if arguments.command == "check":
        print(f"{arguments.corefile}: ok, {_summary(settings)}")
        return 0
    if arguments.command == "explain":
        return _explain(settings, arguments)
    try:
        return asyncio.run(_run(arguments.corefile, settings))
    except OSError as error:
        print(f"nat64-dns64: {error}", file=sys.stderr)
        return 1


async def _run(path: Path, settings: Settings) -> int:
    app = App(path, settings)
    # The objects loaded so far stay, so the garbage collector need not visit them again.
    gc.collect()
    gc.freeze()
    # Nor the cache again and again: long-lived objects there are no garbage.
    gc.set_threshold(50_000, 20, 1000)
    logging.getLogger("nat64_dns64").info(
        "plugin/reload: running Corefile, SHA512 = %s", settings.content_hash
    )
    return await app.run()


def _explain(settings: Settings, arguments: argparse.Namespace) -> int:
    request = Request(arguments.name, arguments.type, arguments.client, arguments.do, arguments.cd)
    try:
        return asyncio.run(explain(settings, request, print))
    except (dns.exception.DNSException, ValueError, OSError) as error:
        print(f"nat64-dns64: {error}", file=sys.stderr)
        return 2


def _summary(settings: Settings) -> str:
    blocks = ", ".join(f"{' '.join(server.zones)} on {server.label}" for server in settings.servers)
    return f"serving {blocks}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nat64-dns64", description="DNS64 (RFC 6147), configured by a Corefile as CoreDNS is."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "serve until SIGTERM; SIGHUP reloads"),
        ("check", "read the Corefile, say what is wrong with it or that it is good"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--corefile", type=Path, required=True, metavar="FILE")
    text = "show how one name is answered: what is asked, what comes back, which rule decides"
    command = commands.add_parser("explain", help=text, description=text)
    command.add_argument("name", metavar="NAME")
    command.add_argument("--corefile", type=Path, default=DEFAULT_COREFILE, metavar="FILE")
    command.add_argument("--type", default="AAAA", help="query type, AAAA if not given")
    command.add_argument("--client", default="::1", metavar="ADDRESS", help="who asks, ::1 else")
    command.add_argument("--do", action="store_true", help="with the DNSSEC OK bit")
    command.add_argument("--cd", action="store_true", help="with the checking disabled bit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
