"""`nat64-clat`: gives the IPv6-only pods of this node a CLAT, and takes it away again."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

from nat64_dataplane import http_server, log_format
from nat64_dataplane.clat import agent, mounts, runtime_data
from nat64_dataplane.clat.programs import DEFAULT_PINS
from nat64_dataplane.clat.removal import Removal
from nat64_dataplane.clat.run_directory import DEFAULT_RUN_DIR, RunDir
from nat64_dataplane.errors import BusyError, ConfigError, DataplaneError
from nat64_dataplane.http_server import Answer, Handler, HttpServer, parse_listen
from nat64_dataplane.translator import config_file

EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_BUSY = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns 0, 1 for a failure, 2 for a bad config or usage, 3 where another agent is in the way.
    """
    options = _parser().parse_args(arguments)
    try:
        log_format.set_up(sys.stderr, "%(asctime)s %(levelname)s %(message)s")
    except ValueError as error:
        return _fail(error, EXIT_CONFIG)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigError as error:
        return _fail(error, EXIT_CONFIG)
    except BusyError as error:
        return _fail(error, EXIT_BUSY)
    except PermissionError as error:
        what = f" ({error.filename})" if error.filename else ""
        needs = "CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON are needed"
        return _fail(f"not permitted{what}: {needs}", EXIT_FAILED)
    except (DataplaneError, OSError) as error:
        return _fail(error, EXIT_FAILED)
    except (KeyboardInterrupt, BrokenPipeError):
        return EXIT_FAILED


def _fail(error: Exception | str, code: int) -> int:
    print(f"nat64-clat: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nat64-clat", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        one.add_argument(
            "--netns",
            type=Path,
            default=mounts.DEFAULT_DIRECTORY,
            help="where the runtime mounts network namespaces (default: %(default)s)",
        )
        one.add_argument(
            "--pins",
            type=Path,
            default=DEFAULT_PINS,
            help="where the programs are pinned, on bpffs (default: %(default)s)",
        )
        one.add_argument(
            "--run-dir",
            type=Path,
            default=DEFAULT_RUN_DIR,
            help="where lock and status are (default: %(default)s)",
        )
        one.add_argument(
            "--listen",
            default=agent.DEFAULT_LISTEN,
            help="address of /metrics, /livez, /readyz and /status; empty for none "
            "(default: %(default)s)",
        )
        return one

    run = add("run", _run, "Give each IPv6-only pod a CLAT, as the translator's config file says.")
    run.add_argument("--config", type=Path, required=True, help="the translator's config file")
    run.add_argument(
        "--runtime-data",
        type=Path,
        action="append",
        help="where the runtime has a directory for each container, with its OCI config in it "
        f"(default: {' and '.join(map(str, runtime_data.DEFAULT_DIRECTORIES))})",
    )
    remove = add("remove", _remove, "Take the CLAT out of all pods, and leave nothing of it.")
    status = add("status", _status, "Print what the agent knows of the node's pods, as JSON.")
    for one in (remove, status):
        which = one.add_mutually_exclusive_group(required=True)
        which.add_argument("--config", type=Path)
        which.add_argument("--name", help="the translator's name")
    remove.add_argument(
        "--hold", action="store_true", help="then stay, and answer on /readyz, until stopped"
    )
    remove.add_argument(
        "--lenient", action="store_true", help="say what could not be removed, and end well"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    directories = tuple(options.runtime_data or runtime_data.DEFAULT_DIRECTORIES)
    asyncio.run(
        agent.Agent(
            agent.Options(
                config=options.config,
                listen=options.listen,
                mounts=options.netns,
                runtime_data=directories,
                pins=options.pins,
                run_dir=options.run_dir,
            )
        ).run()
    )
    return EXIT_OK


def _status(options: argparse.Namespace) -> int:
    name = config_file.load(options.config).name if options.config else options.name
    path = RunDir(options.run_dir, name).status_path
    try:
        print(path.read_text(), end="")
    except FileNotFoundError:
        return _fail(f"no agent of CLAT {name!r} has written {path}", EXIT_FAILED)
    return EXIT_OK


def _remove(options: argparse.Namespace) -> int:
    name = config_file.load(options.config).name if options.config else options.name
    removal = Removal(name, options.netns, options.pins, options.run_dir)
    try:
        for line in removal.run():
            print(f"removed {line}", flush=True)
    except (DataplaneError, OSError) as error:
        if not options.lenient:
            raise
        removal.failures.append(str(error))
    for failure in removal.failures:
        print(f"nat64-clat: not removed: {failure}", file=sys.stderr)
    if removal.failures:
        return EXIT_OK if options.lenient else EXIT_FAILED
    if options.hold:
        asyncio.run(_hold(options.listen))
    return EXIT_OK


async def _hold(listen: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = HttpServer(_removed_routes())
    if listen:
        await server.start(*parse_listen(listen))
    print(f"removed; holding until stopped ({time.strftime('%H:%M:%S')})", flush=True)
    await stop.wait()
    server.close()


def _removed_routes() -> dict[str, Handler]:
    async def ok() -> Answer:
        return http_server.text(HTTPStatus.OK, "removed")

    return {"/livez": ok, "/readyz": ok}


if __name__ == "__main__":
    sys.exit(main())
