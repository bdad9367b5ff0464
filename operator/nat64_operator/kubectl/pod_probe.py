"""Runs inside a short-lived pod: sends packets, and prints the results as JSON.

It needs only the standard library: its text is sent to the pod, so that the image there may have
any version. It judges nothing; `connectivity` and `disruption` do.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO, IPV6_MTU = 23, 2, 24
"""linux/in6.h; Python's socket module has no names for them."""
HEADERS = 48
"""Octets of an IPv6 header and an ICMPv6 echo header."""
WHOLE, IN_FRAGMENTS = 1280, 1312
"""Octets of pings: the first's answer comes whole whatever `lowestIPv6MTU` is, the second's in
fragments where that is 1280 (RFC 7915, section 4)."""
TRIES, WAIT = 3, 2.0
RESULT = Path("/tmp/flows.json")  # noqa: S108 - the pod's own emptyDir
DNS_QUERY = struct.pack("!6H", 0x6464, 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack("!2H", 2, 1)
"""`. NS`: a DNS server answers it, an echo server repeats it, a closed port refuses it."""


def main(argv: list[str]) -> None:
    """`ask REQUESTS`: carry them out side by side. `flows TARGET`: keep flows open until killed."""
    verb, given = argv[0], json.loads(argv[1])
    if verb == "flows":
        Flows(**given).run()
    with ThreadPoolExecutor(max(len(given), 1)) as pool:
        print(json.dumps(list(pool.map(answer, given))))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request. If it fails, `error` has the reason."""
    what: dict[str, Callable[..., dict[str, Any]]] = {
        "resolve": resolve,
        "tcp": tcp,
        "udp": udp,
        "ping": ping,
        "self": self_,
    }
    given = dict(request)
    try:
        return what[given.pop("do")](**given)
    except socket.gaierror as error:
        return {"error": f"the name does not resolve: {error.strerror}"}
    except TimeoutError:
        return {"error": "no answer"}
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0)
        return {"error": error.strerror or str(error), "code": code}


def self_() -> dict[str, Any]:
    """The pod's own addresses towards documentation addresses; no packet is sent."""
    targets = {"six": (socket.AF_INET6, "2001:db8::1"), "four": (socket.AF_INET, "192.0.2.1")}
    found: dict[str, Any] = dict.fromkeys(targets)
    for key, (family, target) in targets.items():
        with socket.socket(family, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.connect((target, 9))
            found[key] = sock.getsockname()[0]
    return found


def addresses(name: str, family: int) -> list[str]:
    """A name's addresses of one family; empty if there are none. Raises gaierror otherwise."""
    none = (socket.EAI_NONAME, -5, -9)  # EAI_NODATA and EAI_ADDRFAMILY, which not all have
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in none:
            return []
        raise
    return sorted({str(entry[4][0]) for entry in found})


def resolve(name: str) -> dict[str, Any]:
    """A name's addresses of both families, as the pod's programs get them."""
    six, four = addresses(name, socket.AF_INET6), addresses(name, socket.AF_INET)
    return {"six": six, "four": four, "error": None}


def tcp(host: str, port: int, timeout: float = 10, family: int = 6) -> dict[str, Any]:
    """Open a connection and close it; `family` 4 for an IPv4 socket.

    IPv4 is waited for: a pod's CLAT may come a moment after the pod.
    """
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    last = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        try:
            with connect(host, port, timeout, kind) as sock:
                took = round((time.monotonic() - began) * 1000)
                return {"peer": sock.getpeername()[0], "milliseconds": took, "error": None}
        except OSError as error:
            if family != 4 or error.errno != errno.ENETUNREACH or began >= last:
                raise
        time.sleep(0.1)


def connect(host: str, port: int, timeout: float, family: int = socket.AF_INET6) -> socket.socket:
    """A TCP connection, over IPv6 by default. Raises OSError."""
    entry = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0]
    sock = socket.socket(*entry[:3])
    try:
        sock.settimeout(timeout)
        sock.connect(entry[4])
    except BaseException:
        sock.close()
        raise
    return sock


def udp(host: str, port: int) -> dict[str, Any]:
    """Send a datagram and wait for any answer; a closed port's ICMP error is an answer too."""
    began = time.monotonic()
    entry = socket.getaddrinfo(host, port, socket.AF_INET6, socket.SOCK_DGRAM)[0]
    with socket.socket(*entry[:3]) as sock:
        sock.settimeout(WAIT)
        sock.connect(entry[4])
        for last in (False, False, True):
            try:
                sock.send(DNS_QUERY)
                sock.recv(4096)
                how = "an answer"
            except ConnectionRefusedError:
                how = "an ICMP error that says the port is closed"
            except TimeoutError:
                if last:
                    raise
                continue
            break
        took = round((time.monotonic() - began) * 1000)
        return {"peer": entry[4][0], "how": how, "milliseconds": took, "error": None}


def ping(host: str, full: bool = False) -> dict[str, Any]:
    """An echo. `full` fills the path's MTU as this pod knows it, and learns from packet-too-big."""
    entry = socket.getaddrinfo(host, 0, socket.AF_INET6, socket.SOCK_DGRAM)[0]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6) as sock:
        sock.settimeout(WAIT)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
        sock.connect((entry[4][0], 0))
        first = mtu = _path_mtu(str(entry[4][0]))
        sequence, tries = 0, 0
        while tries < TRIES:
            sequence += 1
            began = time.monotonic()
            size = mtu if full else HEADERS + 8
            payload = os.urandom(size - HEADERS)
            with contextlib.suppress(TimeoutError):
                if _echo(sock, sequence, payload):
                    took = round((time.monotonic() - began) * 1000)
                    return {"milliseconds": took, "size": size, "first": first, "error": None}
            # A packet-too-big has lowered the path's MTU: this is not a failure, and the MTU never
            # rises.
            learnt = _path_mtu(str(entry[4][0]))
            tries += learnt >= mtu
            mtu = min(mtu, learnt)
        found: dict[str, Any] = {"error": "no answer", "size": size, "first": first}
        if full and mtu >= IN_FRAGMENTS:
            found["back"] = [n for n in (WHOLE, IN_FRAGMENTS) if _comes_back(sock, n)]
        return found


def _comes_back(sock: socket.socket, size: int) -> bool:
    for sequence in range(100, 100 + TRIES):
        with contextlib.suppress(TimeoutError):
            if _echo(sock, sequence, os.urandom(size - HEADERS)):
                return True
    return False


def _path_mtu(address: str) -> int:
    """The path's MTU as the kernel knows it now; a socket keeps the one it connected with."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))
        return sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


def _echo(sock: socket.socket, sequence: int, payload: bytes) -> bool:
    """Whether the payload came back; false if the kernel says that it is too long."""
    try:
        sock.send(struct.pack("!BBHHH", 128, 0, 0, 0, sequence) + payload)
        while True:
            came = sock.recv(65535)
            if came[:1] == b"\x81" and came[8:] == payload:
                return True
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        return False


class Flows:
    """Connections that stay open, with one request per second on each, and new ones beside them."""

    def __init__(
        self, host: str, port: int, tls: bool, flows: int, silence: float, period: float
    ) -> None:
        """After `silence` seconds without an answer a flow ends; a step takes `period` seconds."""
        self.host, self.port, self.tls = host, port, tls
        self.silence, self.period = silence, period
        self.flows: list[dict[str, Any]] = [
            {"answers": 0, "last": None, "closed": 0, "broken": []} for _ in range(flows)
        ]
        self.opened: dict[str, Any] = {"ok": 0, "failed": []}

    def run(self) -> None:
        """Continue until the process is killed; the file always has the current counts."""
        for state in self.flows:
            threading.Thread(target=self._keep, args=(state,), daemon=True).start()
        threading.Thread(target=self._open, daemon=True).start()
        while True:
            new = RESULT.with_suffix(".new")
            counts = {"flows": self.flows, "opened": self.opened}
            new.write_text(json.dumps({"now": time.time(), **counts}))
            new.replace(RESULT)
            time.sleep(self.period)

    def _open(self) -> None:
        """Open a new connection again and again, and resolve its name each time."""
        while True:
            try:
                connect(self.host, self.port, 10).close()
                self.opened["ok"] += 1
            except OSError as error:
                self.opened["failed"].append({"at": time.time(), "why": said(error)})
            time.sleep(self.period)

    def _keep(self, state: dict[str, Any]) -> None:
        """One flow after the other; a server that closes normally breaks nothing."""
        while True:
            try:
                sock = self._connected()
            except OSError:
                time.sleep(self.period)  # `_open` counts these
                continue
            try:
                self._talk(sock, state)
                state["closed"] += 1
            except OSError as error:
                state["broken"].append({"at": time.time(), "why": said(error)})
            finally:
                with contextlib.suppress(OSError):
                    sock.close()

    def _connected(self) -> socket.socket:
        sock = connect(self.host, self.port, 10)
        try:
            if self.tls:
                context = ssl.create_default_context()
                # It doesn't matter who answers, and the image has no certificate authorities.
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                sock = context.wrap_socket(sock, server_hostname=self.host)
            sock.settimeout(self.silence)
        except BaseException:
            sock.close()
            raise
        return sock

    def _talk(self, sock: socket.socket, state: dict[str, Any]) -> None:
        """Requests on one connection, until the server ends it."""
        request = f"HEAD / HTTP/1.1\r\nHost: {self.host}\r\nUser-Agent: nat64-test\r\n\r\n".encode()
        while True:
            sock.sendall(request)
            head = b""
            while b"\r\n\r\n" not in head:
                part = sock.recv(65536)
                if not part:
                    return
                head += part
            state["answers"] += 1
            state["last"] = time.time()
            if b"connection: close" in head.lower():
                return
            time.sleep(self.period)


def said(error: OSError) -> str:
    """An error as text."""
    return "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)


if __name__ == "__main__":
    main(sys.argv[1:])
