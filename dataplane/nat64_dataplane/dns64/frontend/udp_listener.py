"""The UDP socket that clients send queries to; each wakeup reads all waiting datagrams."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from nat64_dataplane.dns64.frontend.zone_dispatch import MessageSource, ZoneDispatcher, bind, take
from nat64_dataplane.dns64.host.recvmmsg import DatagramBatch
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.answer import bare_error

RECEIVE_BUFFER = 4 << 20
IP_PKTINFO = 8
"""From linux/in.h; Python has no name for it before 3.12."""


class _PendingDatagram:
    """A datagram that waits for its answer."""

    __slots__ = ("_listener", "control", "message", "name", "started")

    def __init__(
        self, listener: UdpListener, message: bytes, name: bytes, control: bytes, started: float
    ) -> None:
        self.message = message
        self.started = started
        self.name = name
        self.control = control
        self._listener = listener

    def send(self, response: bytes) -> None:
        self._listener.send(self.name, self.control, response)

    def take_full_path(self) -> None:
        self._listener.take(self)


class UdpListener:
    """One UDP socket."""

    def __init__(self, address: str, port: int, dispatcher: ZoneDispatcher) -> None:
        self.dispatcher = dispatcher
        self._loop = asyncio.get_running_loop()
        self._socket = bind(socket.SOCK_DGRAM, address, port)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.port = self._socket.getsockname()[1]
        self._local = f"[{address}]" if ":" in address else address
        control = 0
        # a node has many addresses: answer from the one that was asked
        if address == "::":
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            control = socket.CMSG_SPACE(20)  # an in6_pktinfo
        elif address == "0.0.0.0":
            self._socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            control = socket.CMSG_SPACE(12)  # an in_pktinfo
        self._flushing = False
        self._batch = DatagramBatch(self._socket, control=control)
        self._loop.add_reader(self._socket, self._drain)

    def stop_reading(self) -> None:
        """Take no more queries; those in flight can still be answered."""
        self._loop.remove_reader(self._socket)

    def close(self) -> None:
        """Send the ready answers, and stop listening."""
        self._flush()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _drain(self) -> None:
        batch, host = self._batch, self._batch.host
        blocks = self.dispatcher.blocks
        started = self._loop.time()
        now = int(started)
        for message, name, control in batch.receive():
            try:
                for block in blocks:
                    response = block.hit(message, name[host], now)
                    if response is not None:
                        batch.queue(response, name, control)
                        break
                else:
                    asker = _PendingDatagram(self, message, name, control, started)
                    if len(blocks) != 1 or not blocks[0].take_fast_path(asker, name[host]):
                        asker.take_full_path()
            except Exception:  # a fault of the sidecar costs one answer, not all of this wakeup
                faults.log("taking a datagram")
                self.send(name, control, bare_error(message, wire.SERVFAIL))
        batch.send()
        for block in blocks:
            block.time_hits(self._loop.time() - started)

    def take(self, asker: _PendingDatagram) -> None:
        """Answer a message on the full path."""
        host, port = self._batch.address(asker.name)
        source = MessageSource(
            host, port, "udp", self._local, partial(self.send, asker.name, asker.control)
        )
        take(self.dispatcher, asker.message, source, asker.started)

    def send(self, name: bytes, control: bytes, response: bytes | None) -> None:
        """Send all answers together that the replies of one wakeup have produced. Never raises."""
        if response is None:
            return
        try:
            self._batch.queue(response, name, control)
        except Exception:  # the response is lost, which UDP allows
            faults.log("sending a response")
            return
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._socket.fileno() >= 0:
            self._batch.send()
