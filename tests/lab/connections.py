"""New connections at a steady rate, each closed by one of its ends: who is refused?

`python -m tests.lab.connections serve PORT` closes what it is told to close. `python -m
tests.lab.connections open HOST PORT RATE SECONDS SOURCE...` opens RATE connections a second from
the sources in turn, and prints as JSON how many were `made`, `refused` and `lost`.
"""

from __future__ import annotations

import errno
import json
import resource
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

BY_CLIENT, BY_SERVER = b"c", b"s"
_PATIENCE = 20.0
"""Seconds, with two SYNs sent again. Whoever has no answer by then has lost his connection."""
_TICK = 0.005


def serve(port: int) -> None:
    """Answer until killed: an end that is told BY_SERVER closes first."""
    ready = selectors.DefaultSelector()
    listener = socket.create_server(("", port), backlog=4096)
    listener.setblocking(False)
    ready.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            one = key.fileobj
            assert isinstance(one, socket.socket)
            if one is listener:
                ready.register(one.accept()[0], selectors.EVENT_READ)
                continue
            try:
                said = one.recv(16)
            except OSError:
                said = b""
            if said != BY_CLIENT:
                ready.unregister(one)
                one.close()


class _Client:
    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._ready = selectors.DefaultSelector()
        self._began: dict[socket.socket, float] = {}
        self.counted: dict[str, Any] = {"made": 0, "refused": 0, "lost": 0, "errors": {}}

    @property
    def busy(self) -> bool:
        """Whether some connection has neither come up nor failed, or isn't closed."""
        return bool(self._began)

    def open(self, source: str, who: bytes) -> None:
        one = socket.socket(socket.AF_INET6)
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        one.bind((source, 0))
        self._began[one] = time.monotonic()
        self._ready.register(one, selectors.EVENT_WRITE, who)
        if (error := one.connect_ex(self._to)) != errno.EINPROGRESS:
            self._end(one, error)

    def follow(self, seconds: float) -> None:
        for key, _ in self._ready.select(seconds):
            one, who = key.fileobj, key.data
            assert isinstance(one, socket.socket)
            if key.events == selectors.EVENT_READ:
                self._close(one)
            elif error := one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._end(one, error)
            else:
                self.counted["made"] += 1
                one.send(who)
                if who == BY_CLIENT:
                    self._close(one)
                else:
                    self._ready.modify(one, selectors.EVENT_READ, who)
        old = time.monotonic() - _PATIENCE
        for one in [one for one, began in self._began.items() if began < old]:
            self._end(one, errno.ETIMEDOUT)

    def _end(self, one: socket.socket, error: int) -> None:
        self.counted["lost" if error == errno.ETIMEDOUT else "refused"] += 1
        name = errno.errorcode.get(error, str(error))
        self.counted["errors"][name] = self.counted["errors"].get(name, 0) + 1
        self._close(one)

    def _close(self, one: socket.socket) -> None:
        self._ready.unregister(one)
        del self._began[one]
        one.close()


def open_all(
    host: str, port: int, rate: float, seconds: float, sources: Sequence[str]
) -> dict[str, Any]:
    """Open, close and count."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    client = _Client(host, port)
    turns = _turns(sources)
    start, started = time.monotonic(), 0
    while (now := time.monotonic()) - start < seconds:
        while started < rate * (now - start):
            client.open(*next(turns))
            started += 1
        client.follow(_TICK)
    while client.busy:
        client.follow(_TICK)
    return client.counted


def _turns(sources: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each source in turn; of its connections, each second one is closed by the server."""
    while True:
        for who in (BY_CLIENT, BY_SERVER):
            for source in sources:
                yield source, who


def main(words: Sequence[str]) -> int:
    """Serve, or open and print."""
    if words[0] == "serve":
        serve(int(words[1]))
    host, port, rate, seconds, *sources = words[1:]
    print(json.dumps(open_all(host, int(port), float(rate), float(seconds), sources)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
