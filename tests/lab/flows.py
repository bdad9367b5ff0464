"""Live flows for a lab's pod, which notice every lost byte and datagram.

`python -m tests.lab.flows tcp|udp HOST PORT PATIENCE SOURCE` runs until a line comes on standard
input, then prints what it saw; an empty SOURCE leaves the choice to the kernel. The line says how
many seconds to wait at most for the datagrams that are under way. TCP sends numbered
blocks to an echo server and checks the answers; it gives up when nothing has come for PATIENCE
seconds. UDP sends a numbered datagram every 5 ms.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from tests.lab.node import PATIENCE, Node, wait_for
from tests.lab.topology import ECHO_PORT, SERVER

_BLOCK = 4096
_UDP_PAUSE = 0.005
_UNDER_WAY = 30.0
_SOME_LOST = 0.5
"""Seconds in which what has not come counts as lost, and where some is known to be."""


class Flow:
    """A flow that runs on a node in the background. `patience` is TCP's, in seconds."""

    def __init__(
        self,
        node: Node,
        kind: str,
        host: str = str(SERVER),
        patience: float = PATIENCE,
        source: str = "",
    ) -> None:
        self.kind = kind
        self._process = node.start(
            sys.executable,
            "-m",
            "tests.lab.flows",
            kind,
            host,
            str(ECHO_PORT),
            str(patience),
            source,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "running\n", "the flow did not start"

    def end(self, late: float = _UNDER_WAY) -> dict[str, Any]:
        """Stop it; a datagram that is `late` seconds late counts as lost.

        For TCP: `blocks` echoed whole, `stall` the longest wait in seconds, `error`. For UDP:
        `sent`, `lost`, and `gap`, the longest run of lost ones, and `alive`, whether the last ones
        came.
        """
        out, _ = self._process.communicate(f"{late}\n", timeout=PATIENCE)
        found: dict[str, Any] = json.loads(out)
        return found

    def gone(self) -> None:
        """Wait until it has given up by itself, as TCP does."""
        wait_for("end of the flow", lambda: self._process.poll() is not None)

    def moves(self) -> None:
        """Wait a moment, so that the flow runs while the test goes on."""
        time.sleep(0.3)


class Stopped(threading.Event):
    """Set when the flow is to end."""

    late = _UNDER_WAY


def _tcp(host: str, port: int, patience: float, source: str, stopped: Stopped) -> dict[str, Any]:
    connection = socket.create_connection((host, port), PATIENCE, (source, 0) if source else None)
    connection.settimeout(patience)
    print("running", flush=True)
    blocks, stall, error = 0, 0.0, ""
    try:
        while not stopped.is_set():
            sent = blocks.to_bytes(8, "big") * (_BLOCK // 8)
            start = time.monotonic()
            connection.sendall(sent)
            got = b""
            while len(got) < _BLOCK:
                part = connection.recv(_BLOCK - len(got))
                if not part:
                    raise ConnectionError("the server closed")
                got += part
            if got != sent:
                raise ConnectionError(f"block {blocks} came back changed")
            stall = max(stall, time.monotonic() - start)
            blocks += 1
    except OSError as problem:
        error = str(problem) or type(problem).__name__
    return {"blocks": blocks, "stall": round(stall, 3), "error": error}


def _udp(host: str, port: int, _: float, source: str, stopped: Stopped) -> dict[str, Any]:
    connection = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    if source:
        connection.bind((source, 0))
    connection.connect((host, port))
    connection.setblocking(False)
    print("running", flush=True)
    sent, came = 0, set()

    def collect(seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([connection], [], [], left)[0]:
                try:
                    came.add(int.from_bytes(connection.recv(64), "big"))
                except OSError:
                    time.sleep(0.001)

    while not stopped.is_set():
        with contextlib.suppress(
            OSError
        ):  # an ICMP error says that it is unreachable: counts as lost
            connection.send(sent.to_bytes(8, "big"))
        sent += 1
        collect(_UDP_PAUSE)
    end = time.monotonic() + stopped.late
    while len(came) < sent and time.monotonic() < end:
        collect(0.1)
    gap = longest = 0
    for number in range(sent):
        gap = 0 if number in came else gap + 1
        longest = max(longest, gap)
    alive = any(number in came for number in range(sent - 50, sent))
    return {"sent": sent, "lost": sent - len(came), "gap": longest, "alive": alive}


def main() -> None:
    kind, host, port, patience, source = sys.argv[1:]
    stopped = Stopped()

    def wait() -> None:
        stopped.late = float(sys.stdin.readline() or 0)
        stopped.set()

    threading.Thread(target=wait, daemon=True).start()
    run = _tcp if kind == "tcp" else _udp
    print(json.dumps(run(host, int(port), float(patience), source, stopped)), flush=True)


def start_all(node: Node, host: str = str(SERVER), patience: float = PATIENCE) -> list[Flow]:
    """One TCP and one UDP flow, both running."""
    flows = wait_for("flows", lambda: [Flow(node, kind, host, patience) for kind in ("tcp", "udp")])
    flows[0].moves()
    return flows


def end_all(flows: list[Flow], *, gap: bool = False) -> None:
    """End them; AssertionError if TCP broke, or a datagram went missing.

    `gap`: the test has interrupted the path for a while. The number of lost datagrams then depends
    on the speed of the machine, but at the end they must arrive again.
    """
    flows[0].moves()
    for flow in flows:
        seen = flow.end(_SOME_LOST if gap else _UNDER_WAY)
        if flow.kind == "tcp":
            assert not seen["error"], seen
            assert seen["blocks"] > 3, seen
        else:
            assert seen["sent"] > 20, seen
            assert seen["alive"], seen
            assert gap or not seen["lost"], seen


def end_without_tcp(flows: list[Flow]) -> None:
    """End them; AssertionError if TCP still works, or UDP doesn't arrive again.

    TCP can't continue without its mapping. The next segment that the pod sends is answered by a
    reset; a pod that only waits hears nothing more.
    """
    tcp, udp = (flow.end(_SOME_LOST) for flow in flows)
    assert tcp["blocks"] > 3, f"it never worked: {tcp}"
    assert tcp["error"] in ("timed out", "[Errno 104] Connection reset by peer"), tcp
    assert udp["alive"], f"UDP did not move on: {udp}"


if __name__ == "__main__":
    main()
