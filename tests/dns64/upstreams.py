"""Name servers for tests, in threads of their own: what they answer is a function of the query.

They run on real sockets. `Zone` answers from records as a recursive resolver would; anything
worse-behaved is a function that a test writes.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Answerer = Callable[[dns.message.Message, str], "dns.message.Message | bytes | None"]
"""A query and `udp` or `tcp` in; a message, raw bytes, or None for silence out."""

SOA = "example. 900 IN SOA ns.example. admin.example. 1 3600 600 86400 300"


@dataclass
class Zone:
    """Records by name and type, answered as a recursive resolver does: aliases followed."""

    records: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = field(default_factory=dict)
    soa: str | None = SOA

    @classmethod
    def of(cls, *lines: str, soa: str | None = SOA) -> Self:
        """Build a zone from lines like `www.example. 300 IN A 192.0.2.1`."""
        zone = cls(soa=soa)
        for line in lines:
            owner, ttl, rdclass, rdtype, data = line.split(None, 4)
            rrset = dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, data)
            known = zone.records.setdefault((rrset.name, rrset.rdtype), rrset)
            if known is not rrset:
                known.update(rrset)  # type: ignore[no-untyped-call]
        return zone

    def __call__(self, query: dns.message.Message, _proto: str) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        name, seen = question.name, 0
        while alias := self.records.get((name, dns.rdatatype.CNAME)):
            if question.rdtype == dns.rdatatype.CNAME or seen > 16:
                break
            response.answer.append(alias)
            name, seen = alias[0].target, seen + 1
        found = self.records.get((name, question.rdtype))
        if found is not None:
            response.answer.append(found)
            return response
        if not any(owner == name or owner.is_subdomain(name) for owner, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if self.soa:
            owner, ttl, rdclass, rdtype, data = self.soa.split(None, 4)
            response.authority.append(dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, data))
        return response


class Upstream:
    """A server on one port, UDP and TCP. `asked` has (name, type, proto) of each query."""

    def __init__(self, answer: Answerer, address: str = "::1", port: int = 0) -> None:
        self.answer = answer
        self.address = address
        self.asked: list[tuple[str, str, str]] = []
        self.sources: list[tuple[int, int]] = []
        """Source port and ID of each query."""
        self.queries: list[dns.message.Message] = []
        self._stopping = threading.Event()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._tcp, self._udp = _bound(family, address, port)
        self.port: int = self._tcp.getsockname()[1]
        self._tcp.listen(64)
        self._udp.settimeout(0.1)
        self._tcp.settimeout(0.1)
        self._threads = [
            threading.Thread(target=self._serve_udp, daemon=True),
            threading.Thread(target=self._serve_tcp, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def types(self) -> list[str]:
        """The types that were asked for, in order, the health checks left out."""
        return [rdtype for name, rdtype, _ in self.asked if name != "."]

    def _reply(self, message: bytes, proto: str, source: int) -> bytes | None:
        query = dns.message.from_wire(message)
        question = query.question[0]
        name = question.name.to_text().lower()
        self.asked.append((name, dns.rdatatype.to_text(question.rdtype), proto))
        self.sources.append((source, query.id))
        self.queries.append(query)
        response = self.answer(query, proto)
        if isinstance(response, dns.message.Message):
            return response.to_wire(max_size=65535)
        return response

    def _serve_udp(self) -> None:
        while not self._stopping.is_set():
            try:
                message, source = self._udp.recvfrom(65535)
            except OSError:
                continue
            response = self._reply(message, "udp", source[1])
            if response is not None:
                self._udp.sendto(response, source)

    def _serve_tcp(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, source = self._tcp.accept()
            except OSError:
                continue
            threading.Thread(
                target=self._serve_connection, args=(connection, source[1]), daemon=True
            ).start()

    def _serve_connection(self, connection: socket.socket, source: int) -> None:
        with connection:
            connection.settimeout(5)
            try:
                while head := _exactly(connection, 2):
                    (length,) = struct.unpack("!H", head)
                    response = self._reply(_exactly(connection, length), "tcp", source)
                    if response is not None:
                        connection.sendall(struct.pack("!H", len(response)) + response)
            except OSError:
                return


def _bound(family: int, address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Sockets of TCP and UDP at the same port; where that is 0, one that is free for both."""
    while True:
        tcp = socket.socket(family, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((address, port))
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.bind((address, tcp.getsockname()[1]))
        except OSError as error:
            tcp.close()
            udp.close()
            if port or error.errno != errno.EADDRINUSE:
                raise
        else:
            return tcp, udp


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data


def texts(rrsets: Iterable[dns.rrset.RRset]) -> list[str]:
    """Each record as one line, in order."""
    return [line for rrset in rrsets for line in rrset.to_text().split("\n")]
