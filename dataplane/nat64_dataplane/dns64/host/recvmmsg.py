"""Many datagrams per system call, in both directions (recvmmsg, sendmmsg).

Python's `recvfrom` and `sendto` convert every address to text and back, which costs as much as the
lookup of the answer. Here addresses stay in the kernel's form, in buffers that are reused. The
structures are those of 64-bit Linux, which are the same on every processor.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from struct import Struct

SIZE = 64
"""Messages of one batch."""
_RECEIVED, _SENT = 4096, 1280
"""Bytes that fit into a buffer; no UDP message that we ask for or send is above 1232."""
_NAME, _CONTROL, _HEADER, _IOVEC = 32, 64, 64, 16
_MSGHDR = Struct("=QI4xQQQQi4xI4x")
_LENGTH = Struct("=56xI4x")
_IOV = Struct("=QQ")
_IOV_LENGTH = Struct("=Q")

_libc = ctypes.CDLL(None, use_errno=True)
_ARGUMENTS = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (*_ARGUMENTS, ctypes.c_void_p)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = _ARGUMENTS


class _Vector:
    """`SIZE` messages with room for data, address and ancillary data each."""

    def __init__(self, data: int, name: int, control: int) -> None:
        self.data_size = data
        self._memory = [bytearray(SIZE * size) for size in (_HEADER, _IOVEC, data, _NAME, _CONTROL)]
        views = [memoryview(memory) for memory in self._memory]
        self.headers, self.iovecs, self.data, self.names, self.controls = views
        self.address, iovecs, buffers, names, controls = (
            ctypes.addressof(ctypes.c_char.from_buffer(memory)) for memory in self._memory
        )
        for index in range(SIZE):
            _IOV.pack_into(self.iovecs, index * _IOVEC, buffers + index * data, data)
            _MSGHDR.pack_into(
                self.headers,
                index * _HEADER,
                names + index * _NAME,
                name,
                iovecs + index * _IOVEC,
                1,
                controls + index * _CONTROL if control else 0,
                control,
                0,
                0,
            )
        self.fresh = bytes(self.headers)
        """The headers before a call: the kernel writes lengths into them."""


class DatagramReceiver:
    """Receives from one connected socket, whose address is known."""

    def __init__(self, connected: socket.socket) -> None:
        self._descriptor = connected.fileno()
        self._in = _Vector(_RECEIVED, 0, 0)

    def receive(self) -> list[bytes]:
        """Return the messages that wait, `SIZE` at most. Raises OSError, as for a closed port."""
        vector = self._in
        vector.headers[:] = vector.fresh
        count = _recvmmsg(self._descriptor, vector.address, SIZE, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(number, os.strerror(number))
        data = vector.data
        lengths = _LENGTH.iter_unpack(vector.headers[: count * _HEADER])
        return [
            data[index * _RECEIVED : index * _RECEIVED + length].tobytes()
            for index, (length,) in enumerate(lengths)
        ]


class DatagramBatch:
    """Receives into one vector and sends from another, on one socket."""

    def __init__(self, bound: socket.socket, *, control: int) -> None:
        self._descriptor = bound.fileno()
        six = bound.family == socket.AF_INET6
        self.name_size = 28 if six else 16
        self.host = slice(8, 28) if six else slice(4, 8)
        """Where in an address the host is: address and scope, without the port."""
        self._control = control
        # behind a header of 16 bytes: address and interface, or for IPv4 interface and addresses
        self._interface = 32 if six else 16
        self._in = _Vector(_RECEIVED, self.name_size, control)
        self._out = _Vector(_SENT, self.name_size, control)
        self._queued = 0

    def receive(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Give message, address and ancillary data of each datagram that waits, `SIZE` at most."""
        vector = self._in
        vector.headers[:] = vector.fresh
        count = _recvmmsg(self._descriptor, vector.address, SIZE, socket.MSG_DONTWAIT, None)
        if count <= 0:
            return
        data, names, name_size = vector.data, vector.names, self.name_size
        controls, control = vector.controls, self._control
        lengths = _LENGTH.iter_unpack(vector.headers[: count * _HEADER])
        start = at = beside = 0
        for (length,) in lengths:
            name = names[at : at + name_size].tobytes()
            yield (
                data[start : start + length].tobytes(),
                name,
                self._reply_from(controls[beside : beside + control].tobytes(), name)
                if control
                else b"",
            )
            start += _RECEIVED
            at += _NAME
            beside += _CONTROL

    def _reply_from(self, control: bytes, name: bytes) -> bytes:
        """Answer from the address that was asked, and let routing choose the interface. Only
        link-local addresses need theirs.
        """
        index = self._interface
        if self.name_size == 28 and name[8] == 0xFE and name[9] & 0xC0 == 0x80:
            return control
        return control[:index] + bytes(4) + control[index + 4 :]

    def queue(self, response: bytes, name: bytes, control: bytes) -> None:
        """Queue a response, at most 1232 bytes long, for `send`."""
        vector, index = self._out, self._queued
        start, at = index * _SENT, index * _NAME
        vector.data[start : start + len(response)] = response
        vector.names[at : at + len(name)] = name
        if control:
            at = index * _CONTROL
            vector.controls[at : at + len(control)] = control
        _IOV_LENGTH.pack_into(vector.iovecs, index * _IOVEC + 8, len(response))
        self._queued = index + 1
        if self._queued == SIZE:
            self.send()

    def send(self) -> None:
        """Send what is queued. A response that can't be sent is lost, as UDP may lose it."""
        vector, count, first = self._out, self._queued, 0
        self._queued = 0
        while first < count:
            address = vector.address + first * _HEADER
            sent = _sendmmsg(self._descriptor, address, count - first, socket.MSG_DONTWAIT)
            if sent < 0 and ctypes.get_errno() in (errno.EAGAIN, errno.ENOBUFS):
                return
            first += max(sent, 1)

    def address(self, name: bytes) -> tuple[str, int]:
        """Host and port of an address, as text and number."""
        port = int.from_bytes(name[2:4], "big")
        if self.name_size == 28:
            return socket.inet_ntop(socket.AF_INET6, name[8:24]), port
        return socket.inet_ntop(socket.AF_INET, name[4:8]), port
