"""`nat64-clat`: gives the IPv6-only pods of this node a CLAT, and takes it away again."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nat64_dataplane.agent_process import EXIT_FAILED, EXIT_OK, fail, hold, run_command
from nat64_dataplane.clat import agent, mounts, runtime_data
from nat64_dataplane.clat.programs import DEFAULT_PINS
from nat64_dataplane.clat.removal import Removal
from nat64_dataplane.clat.run_directory import DEFAULT_RUN_DIR, RunDir
from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.translator import config_file

_PROGRAM = "nat64-clat"
_NEEDS = "CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON are needed"


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
        return fail(_PROGRAM, f"no agent of CLAT {name!r} has written {path}")
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
        fail(_PROGRAM, f"not removed: {failure}")
    if removal.failures:
        return EXIT_OK if options.lenient else EXIT_FAILED
    if options.hold:
        asyncio.run(hold(options.listen))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
