"""Queries to one server over UDP: several sockets, each with a port that the kernel chooses.

A forger has to guess source port, ID and the name's letter case (RFC 5452). So queries are spread
over the sockets at random, and each socket is replaced after some use. A reply counts only if it
comes from the server's address (the sockets are connected), has an ID that is open on that socket,
and repeats the question to the letter.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from nat64_dataplane.dns64.host.random_bytes import Entropy, mix_case
from nat64_dataplane.dns64.host.recvmmsg import DatagramReceiver
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.bare_error import is_bare_error, with_question
from nat64_dataplane.dns64.message.edns import may_have_opt
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.malformed import Malformed
from nat64_dataplane.dns64.settings import Upstream
from nat64_dataplane.dns64.upstream.edns_memory import EdnsMemory
from nat64_dataplane.dns64.upstream.upstream_query import UpstreamQuery

PORTS = 4
USES = 2048
"""After this many queries a port is closed and another one opened."""
MAX_PENDING = 4096
"""Open queries per port; with more, an ID would be too easy to guess."""
RECEIVE_BUFFER = 1 << 20
TICK = 0.05
"""Seconds between checks for queries without a reply in time."""


_Pending = tuple[UpstreamQuery, bytes, int, bool]
"""An open query: its question as it was sent, the number of this try, and whether it has OPT."""

_Waiting = tuple[float, int, UpstreamQuery, "_Port", bytes, float]
"""When to check again, a tie-breaking number, the query, its port and ID, when to give up."""


class _Port:
    """One connected socket and the queries open on it by ID."""

    def __init__(self, owner: UdpTransport) -> None:
        self.pending: dict[bytes, _Pending] = {}
        self.refused: set[bytes] = set()
        """IDs of queries answered by a bare error: if it was forged, the true reply counts."""
        self.uses = 0
        self._owner = owner
        self._socket = owner.open_socket()
        self._receiver = DatagramReceiver(self._socket)
        self.expires = owner.loop.time() + owner.expire
        owner.loop.add_reader(self._socket, self._readable)

    def close(self) -> None:
        self._owner.loop.remove_reader(self._socket)
        self._socket.close()

    def send(self, message: bytes) -> None:
        """Send a message. Raises OSError."""
        self.uses += 1
        self._socket.send(message)

    def _readable(self) -> None:
        owner, pending = self._owner, self.pending
        try:
            messages = self._receiver.receive()
        except OSError as error:  # a port unreachable: every query on this socket is lost
            self.pending = {}
            self.refused.clear()
            for query, _, number, _ in pending.values():
                if query.number == number:
                    owner.fail(query, f"{owner.upstream}: {error.strerror or error}")
            return
        for message in messages:
            waits = pending.get(message[:2])
            if waits is None:
                owner.strays += 1
                continue
            try:
                self._take(message, waits)
            except Exception:  # a fault of the sidecar costs one answer, not all of this wakeup
                faults.log(f"taking a reply from {owner.upstream}")
                waits[0].waits = False
                waits[0].fault()

    def _take(self, message: bytes, pending: _Pending) -> None:
        """Accept a message as the reply, or leave the query open for the true one."""
        owner = self._owner
        query, asked, number, edns = pending
        ident = message[:2]
        end = wire.HEADER_SIZE + len(asked)
        echoed = message[wire.HEADER_SIZE : end]
        if echoed != asked:
            if is_bare_error(message):
                self._take_bare_error(message, pending)
                return
            if echoed.lower() != asked.lower() or not query.is_open(number):
                owner.strays += 1
                return
            del self.pending[ident]
            query.waits = False
            owner.wrong_case(query)
            return
        del self.pending[ident]
        if not query.is_open(number):
            owner.learn(message, query.do, asked)
            return
        query.edns = edns
        # put the question's own letter case back: compressed names in the reply point at it
        owner.finish(query, b"".join((message[: wire.HEADER_SIZE], query.question, message[end:])))
        if edns and may_have_opt(message) and not owner.edns.is_proven(owner.loop.time()):
            owner.learn(message, query.do, asked)

    def _take_bare_error(self, message: bytes, pending: _Pending) -> None:
        """Accept an error without a question. It is easy to forge. So if it may make us ask without
        EDNS, the query stays open for a reply that proves it wrong.
        """
        query, _, number, edns = pending
        ident = message[:2]
        if not query.is_open(number) or ident in self.refused:
            self._owner.strays += 1
            return
        if edns and message[3] & wire.RCODE_MASK in (wire.FORMERR, wire.NOTIMP):
            self.refused.add(ident)
        else:
            del self.pending[ident]
        query.edns = edns
        self._owner.finish(query, with_question(message, query.question))


class UdpTransport:
    """All sockets to one server, and the timer that gives up on queries."""

    def __init__(
        self,
        upstream: Upstream,
        source: str,
        entropy: Entropy,
        *,
        expire: float,
        edns: EdnsMemory,
        wrong_case: Callable[[UpstreamQuery], None],
        overdue: Callable[[UpstreamQuery, float], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.upstream = upstream
        self.strays = 0
        """Messages that answer no open query."""
        self.mixes_case = True
        self.edns = edns
        self._overdue = overdue
        self.wrong_case = wrong_case
        """Called for a reply that repeats the name in another letter case."""
        self._source = source
        self._entropy = entropy
        self.expire = expire
        self._ports: list[_Port] = []
        self._retired: list[_Port] = []
        self._waiting: deque[_Waiting] = deque()
        """The queries that give up in the order in which they were sent: most of them."""
        self._sooner: list[_Waiting] = []
        """A heap of the others, which have less time than queries before them."""
        self._number = count()
        self._timer: asyncio.TimerHandle | None = None

    def send(self, query: UpstreamQuery, *, deadline: float, overdue: float = math.inf) -> None:
        """Send a query. Its `result` is called with the reply, or with Failed by `deadline`.

        If there is no reply at the time `overdue`, the callback of that name is called.
        """
        random = self._entropy.bytes(4)
        try:
            port = self._pick(random[0] % PORTS)
            ident = random[2:]
            while ident in port.pending:
                ident = self._entropy.bytes(2)
            question = query.question
            if self.mixes_case:
                question = mix_case(question[:-4], self._entropy) + question[-4:]
            query.waits = True
            port.send(query.message(ident, question))
        except OSError as error:
            query.waits = True
            # not at once, because the next try would run inside this call, and its failure inside
            # that one
            self.loop.call_soon(self.fail, query, f"{self.upstream}: {error.strerror or error}")
            return
        port.pending[ident] = (query, question, query.number, query.edns)
        at = min(deadline, overdue)
        waits = (at, next(self._number), query, port, ident, deadline)
        waiting = self._waiting
        # Answered queries are removed now; otherwise thousands would be kept until the next tick.
        while waiting and waiting[0][4] not in waiting[0][3].pending:
            waiting.popleft()
        if waiting and at < waiting[-1][0]:
            heappush(self._sooner, waits)
        else:
            waiting.append(waits)
        if self._timer is None:
            self._timer = self.loop.call_later(TICK, self._tick)

    def finish(self, query: UpstreamQuery, message: bytes) -> None:
        """End a try with the reply in a message, in which our question stands."""
        try:
            reply = query.read(message)
        except Malformed as error:
            self.fail(query, f"{self.upstream}: malformed reply: {error}")
        else:
            query.finish(reply)

    def learn(self, message: bytes, do: bool, asked: bytes) -> None:
        """Learn whether the server knows EDNS, also from a reply that no query waits for."""
        try:
            knows = wire.parse_reply(message).edns is not None
        except Malformed:
            return
        if knows:
            self.edns.works(asked.lower(), do, self.loop.time())

    def fail(self, query: UpstreamQuery, reason: str) -> None:
        """Give up on a query."""
        query.finish(Failed(reason))

    def close(self) -> None:
        """Close every socket; what was in flight fails."""
        if self._timer is not None:
            self._timer.cancel()
        ports = self._ports + self._retired
        self._ports, self._retired = [], []
        for port in ports:
            port.close()
        waiting = [*self._waiting, *self._sooner]
        self._waiting, self._sooner = deque(), []
        for _, _, query, *_ in waiting:
            self.fail(query, "closing")

    def open_socket(self) -> socket.socket:
        """Open a socket that only this server can reach. Raises OSError."""
        family = socket.AF_INET6 if ":" in self.upstream.address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            if self._source:
                opened.bind((self._source, 0))
            opened.connect((self.upstream.address, self.upstream.port))
        except OSError:
            opened.close()
            raise
        return opened

    def _pick(self, index: int) -> _Port:
        while index >= len(self._ports):
            self._ports.append(_Port(self))
        port = self._ports[index]
        if port.uses >= USES or len(port.pending) >= MAX_PENDING or port.expires < self.loop.time():
            self._retired.append(port)
            port = self._ports[index] = _Port(self)
        return port

    def _tick(self) -> None:
        now = self.loop.time()
        waiting, sooner = self._waiting, self._sooner
        while waiting and (waiting[0][0] <= now or waiting[0][4] not in waiting[0][3].pending):
            self._look(waiting.popleft(), now)
        while sooner and (sooner[0][0] <= now or sooner[0][4] not in sooner[0][3].pending):
            self._look(heappop(sooner), now)
        for port in [port for port in self._retired if not port.pending]:
            self._retired.remove(port)
            port.close()
        idle = not waiting and not sooner and not self._retired
        self._timer = None if idle else self.loop.call_later(TICK, self._tick)

    def _look(self, waits: _Waiting, now: float) -> None:
        """Give up on a query whose time is over, or report one that is overdue."""
        _, number, query, port, ident, deadline = waits
        pending = port.pending.get(ident)
        if pending is None or pending[0] is not query:
            return
        if now < deadline:
            heappush(self._sooner, (deadline, number, query, port, ident, deadline))
            if query.is_open(pending[2]) and ident not in port.refused:
                self._overdue(query, deadline)
            return
        del port.pending[ident]
        if ident in port.refused:
            port.refused.discard(ident)
        elif query.number == pending[2] and query.waits:
            self.edns.timed_out()
            self.fail(query, f"{self.upstream}: no reply in time")
        elif pending[3]:  # the copy without EDNS was answered, the query with it never
            self.edns.stayed_silent(now)
