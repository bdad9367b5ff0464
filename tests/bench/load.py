"""Traffic for the translator's benchmark: one program, a mode a measurement, one number out.

Python does not hold it up: what is sent a packet at a time goes to the kernel in batches, by
`sendmmsg` over messages that are made beforehand. Clients run on one CPU and servers on another,
so that the scheduler's moods are not measured. Datagrams are counted by the receiving interface
and end there: waking a process for them costs more than translating them.

    load.py server
    load.py streams HOST SECONDS up|down COUNT        Gbit/s
    load.py connections HOST SECONDS SOURCE COUNT     a second, from so many addresses in a row
    load.py rounds HOST COUNT                         50th, 99th, 99.9th percentile, microseconds
    load.py flood HOST SECONDS                        sent
    load.py call HOST SECONDS                         the server floods this address
    load.py spray DEVICE MAC HOST SECONDS FLOWS PACKETS   sent; PACKETS 0: no limit
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from statistics import quantiles
from typing import Any, ClassVar

STREAMS, CALLS, CONNECTIONS, ROUNDS = 5001, 5002, 5003, 5004
DISCARD = 9
"""Port of datagrams that nobody reads."""
PAYLOAD = bytes(64)
CHUNK = bytes(1 << 17)
BATCH, IN_FLIGHT = 256, 64

SPRAY_SOURCE = IPv6Address("fd64:1:0:0:1::")
_PORTS_PER_SOURCE, _FIRST_PORT = 32768, 1024
_STRIDE = 7919
"""Prime, so each round visits every flow once, in an order that no cache likes."""


class _IoVec(ctypes.Structure):
    _fields_: ClassVar = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_: ClassVar = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_: ClassVar = [("header", _Header), ("sent", ctypes.c_uint)]


_libc = ctypes.CDLL(None, use_errno=True)


class Messages:
    """Messages of one size, ready to be sent as often as one likes."""

    def __init__(self, data: bytearray, size: int) -> None:
        self.count = len(data) // size
        base = ctypes.addressof((ctypes.c_char * len(data)).from_buffer(data))
        self._vectors = (_IoVec * self.count)(
            *(_IoVec(base + index * size, size) for index in range(self.count))
        )
        vector = ctypes.addressof(self._vectors)
        step = ctypes.sizeof(_IoVec)
        self._messages = (_Message * self.count)(
            *(_Message(_Header(None, 0, vector + index * step, 1)) for index in range(self.count))
        )
        self._data = data

    def send_from(self, sock: socket.socket, at: int, count: int) -> int:
        """Send `count` of them, from the one at `at` on. Returns how many the kernel took."""
        first, step = ctypes.addressof(self._messages), ctypes.sizeof(_Message)
        done: int = _libc.sendmmsg(sock.fileno(), ctypes.c_void_p(first + at * step), count, 0)
        return max(done, 0)

    def send(self, sock: socket.socket, until: float, most: float) -> int:
        """Send them round and round, until a time or a number is reached. Returns the number."""
        fd, first, step = sock.fileno(), ctypes.addressof(self._messages), ctypes.sizeof(_Message)
        sent = at = 0
        while sent < most and time.monotonic() < until:
            size = min(BATCH, self.count - at)
            done = _libc.sendmmsg(fd, ctypes.c_void_p(first + at * step), size, 0)
            sent += max(done, 0)
            at = (at + size) % self.count
        return sent


def _flood(sock: socket.socket, seconds: float) -> int:
    messages = Messages(bytearray(PAYLOAD * BATCH), len(PAYLOAD))
    return messages.send(sock, time.monotonic() + seconds, float("inf"))


def _dial(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.connect((host, port))
    return sock


def _datagrams(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("::", port))
    return sock


def _listener(port: int) -> socket.socket:
    address = ("::", port)
    return socket.create_server(address, family=socket.AF_INET6, backlog=4096, dualstack_ipv6=True)


def serve() -> None:
    """Answer every mode, until killed."""
    _pin(1)
    for service in (_serve_streams, _serve_calls, _serve_connections):
        threading.Thread(target=service, daemon=True).start()
    with _datagrams(ROUNDS) as sock:
        while True:
            data, peer = sock.recvfrom(64)
            sock.sendto(data, peer)


def _serve_streams() -> None:
    def one(sock: socket.socket) -> None:
        with sock:
            if sock.recv(1) == b"d":
                _pour(sock, float("inf"))
            else:
                sock.sendall(struct.pack("=Q", _drain(sock, float("inf"))))

    with _listener(STREAMS) as listener:
        while True:
            threading.Thread(target=one, args=listener.accept()[:1], daemon=True).start()


def _serve_calls() -> None:
    with _datagrams(CALLS) as listener:
        while True:
            data, peer = listener.recvfrom(64)
            # Connected, as the kernel then need not find a route for each.
            with _datagrams(CALLS) as sock:
                sock.connect(peer)
                _flood(sock, struct.unpack("=d", data)[0])


def _serve_connections() -> None:
    with _listener(CONNECTIONS) as listener:
        while True:
            listener.accept()[0].close()


def _pour(sock: socket.socket, until: float) -> None:
    try:
        while time.monotonic() < until:
            sock.send(CHUNK)
    except OSError:
        return  # the other side has had enough


def _drain(sock: socket.socket, until: float) -> int:
    buffer, total = bytearray(len(CHUNK)), 0
    while (got := sock.recv_into(buffer)) and time.monotonic() < until:
        total += got
    return total


def streams(host: str, seconds: float, direction: str, count: int) -> float:
    """The receiver counts. Gbit/s of payload over all streams."""
    received: list[int] = []

    def one(sock: socket.socket, until: float) -> None:
        with sock:
            if direction == "down":
                received.append(_drain(sock, until))
            else:
                _pour(sock, until)
                sock.shutdown(socket.SHUT_WR)
                received.append(struct.unpack("=Q", sock.recv(8, socket.MSG_WAITALL))[0])

    socks = [_dial(host, STREAMS, socket.SOCK_STREAM) for _ in range(count)]
    for sock in socks:
        sock.sendall(direction[:1].encode())
    start = time.monotonic()
    threads = [threading.Thread(target=one, args=(sock, start + seconds)) for sock in socks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(received) * 8 / (time.monotonic() - start) / 1e9


def connections(host: str, seconds: float, source: str, count: int) -> float:
    """Opened, and reset by the client as soon as they are: each from another of its addresses in
    turn. From few of them, source ports come round while they are still remembered. A second.
    """
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    hard = struct.pack("=ii", 1, 0)
    first = ip_address(source)
    turns = itertools.cycle([str(first + number) for number in range(count)])
    flying: dict[int, socket.socket] = {}
    poll = select.epoll()

    def start_one() -> None:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((next(turns), 0))
        sock.connect_ex((host, CONNECTIONS))
        flying[sock.fileno()] = sock
        poll.register(sock, select.EPOLLOUT)

    opened, start = 0, time.monotonic()
    while time.monotonic() < start + seconds:
        while len(flying) < IN_FLIGHT:
            start_one()
        for fd, event in poll.poll(0.1):
            opened += event == select.EPOLLOUT
            flying.pop(fd).close()
    return opened / (time.monotonic() - start)


_IP_BIND_ADDRESS_NO_PORT = 24


def rounds(host: str, count: int) -> tuple[float, float, float]:
    """Round trips of one byte over UDP."""
    took = []
    with _dial(host, ROUNDS, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        for _ in range(count):
            start = time.perf_counter_ns()
            sock.send(b".")
            sock.recv(1)
            took.append((time.perf_counter_ns() - start) / 1000)
    percentiles = quantiles(took, n=1000)
    return percentiles[499], percentiles[989], percentiles[998]


def flood(host: str, seconds: float) -> int:
    """64-byte datagrams to a port where nobody listens. Returns how many were sent."""
    with _dial(host, DISCARD, socket.SOCK_DGRAM) as sock:
        return _flood(sock, seconds)


def call(host: str, seconds: float) -> int:
    """Have the server flood us, and wait for the end of it."""
    with _dial(host, CALLS, socket.SOCK_DGRAM) as sock:
        sock.send(struct.pack("=d", seconds))
        time.sleep(seconds + 0.2)
    return 0


def spray(device: str, mac: str, host: str, seconds: float, flows: int, packets: int) -> int:
    """Datagrams of so many flows in turn, as frames. Returns how many were sent."""
    gateway = bytes.fromhex(mac.replace(":", ""))
    data = bytearray().join(frames(gateway, IPv6Address(host), flows))
    messages = Messages(data, len(data) // flows)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((device, 0))
        return messages.send(sock, time.monotonic() + seconds, packets or float("inf"))


def frames(mac: bytes, host: IPv6Address, flows: int) -> Iterable[bytes]:
    """One frame a flow, to a gateway's address; each flow has a source address and port."""
    length = 8 + len(PAYLOAD)
    link = mac + bytes(6) + b"\x86\xdd"
    head = link + struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64)
    first, to = SPRAY_SOURCE.packed[:12], host.packed
    fixed = sum(struct.unpack("!14H", first + to)) + socket.IPPROTO_UDP + 2 * length + DISCARD
    flow = 0
    for _ in range(flows):
        flow = (flow + _STRIDE) % flows
        source, port = divmod(flow, _PORTS_PER_SOURCE)
        port += _FIRST_PORT
        total = fixed + (source >> 16) + (source & 0xFFFF) + port
        total = (total & 0xFFFF) + (total >> 16)
        check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        address = first + source.to_bytes(4, "big") + to
        yield head + address + struct.pack("!4H", port, DISCARD, length, check or 0xFFFF) + PAYLOAD


def _pin(cpu: int) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[cpu % len(cpus)]})


def main(words: Sequence[str]) -> int:
    """Run one mode and print its figures."""
    modes: dict[str, Callable[..., Any]] = {
        "streams": lambda host, s, way, n: streams(host, float(s), way, int(n)),
        "connections": lambda host, s, source, n: connections(host, float(s), source, int(n)),
        "rounds": lambda host, n: rounds(host, int(n)),
        "flood": lambda host, s: flood(host, float(s)),
        "call": lambda host, s: call(host, float(s)),
        "spray": lambda dev, mac, host, s, n, most: spray(
            dev, mac, host, float(s), int(n), int(most)
        ),
    }
    if list(words) == ["server"]:
        serve()
    elif not words or words[0] not in modes:
        print(__doc__, file=sys.stderr)
        return 2
    else:
        _pin(0)
        found = modes[words[0]](*words[1:])
        print(*found if isinstance(found, tuple) else (found,))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
