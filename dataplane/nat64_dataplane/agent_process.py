"""What the processes of the agents share: exit codes, errors in words, signals, and tasks."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from nat64_dataplane import http_server, log_format
from nat64_dataplane.errors import BusyError, ConfigError, DataplaneError
from nat64_dataplane.http_server import Answer, HttpServer, parse_listen

EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_BUSY = 0, 1, 2, 3


def run_command(options: argparse.Namespace, program: str, needs: str) -> int:
    """Run `options.command`; its errors become a line and an exit code.

    `needs` says what a process without enough rights lacks. Returns the command's own code, 1 for
    a failure, 2 for a bad config or usage, 3 where another agent is in the way.
    """
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        log_format.set_up(sys.stderr, "%(asctime)s %(levelname)s %(message)s")
    except ValueError as error:
        return fail(program, error, EXIT_CONFIG)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    try:
        return command(options)
    except ConfigError as error:
        return fail(program, error, EXIT_CONFIG)
    except BusyError as error:
        return fail(program, error, EXIT_BUSY)
    except PermissionError as error:
        what = f" ({error.filename})" if error.filename else ""
        return fail(program, f"not permitted{what}: {needs}")
    except (DataplaneError, OSError) as error:
        return fail(program, error)
    except (KeyboardInterrupt, BrokenPipeError):
        return EXIT_FAILED


def fail(program: str, error: Exception | str, code: int = EXIT_FAILED) -> int:
    """Print why; returns the exit code."""
    print(f"{program}: {error}", file=sys.stderr)
    return code


def set_on_stop(stop: asyncio.Event) -> None:
    """Set the event on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def until_one_ends(*work: Coroutine[Any, Any, object]) -> None:
    """Run all until the first one ends, then cancel the others. Raises what that one raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hold(listen: str) -> None:
    """After a removal: answer that all is removed, until stopped. `listen` is empty for nowhere.

    Raises OSError where the address is taken.
    """
    stop = asyncio.Event()
    set_on_stop(stop)
    server = HttpServer({"/livez": _removed, "/readyz": _removed})
    if listen:
        await server.start(*parse_listen(listen))
    print(f"removed; holding until stopped ({time.strftime('%H:%M:%S')})", flush=True)
    await stop.wait()
    server.close()


async def _removed() -> Answer:
    return http_server.text(HTTPStatus.OK, "removed")
