"""One upstream server: its transports, its health, and which features it lacks."""

from __future__ import annotations

import asyncio
import ssl

from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.message import domain_names
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.settings import Forward, Upstream
from nat64_dataplane.dns64.upstream.edns_memory import EdnsMemory
from nat64_dataplane.dns64.upstream.stream_transport import StreamTransport
from nat64_dataplane.dns64.upstream.udp_transport import UdpTransport
from nat64_dataplane.dns64.upstream.upstream_query import PlainCopy, UpstreamQuery

CASE_BLIND_SECONDS = 600.0
"""For how long a server that changes letter case is asked only in lower case."""
OVERDUE = 0.5
"""The fraction of `read_timeout` after which a copy without EDNS is sent too."""
PROBE_SECONDS = 1.0


class UpstreamServer:
    """One upstream with its transports and its health. Raises OSError for a bad certificate."""

    def __init__(self, upstream: Upstream, settings: Forward, entropy: Entropy) -> None:
        self.upstream = upstream
        self.label = str(upstream)
        self.fails = 0
        self.failed_probes = 0
        self.edns = EdnsMemory()
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._probe: asyncio.TimerHandle | None = None
        self._closed = False
        self._health = domain_names.from_text(settings.health_domain) + b"\0\2\0\1"
        tls = _tls_context(settings) if upstream.transport == "tls" else None
        self.streams = StreamTransport(
            upstream,
            settings.source_address,
            entropy,
            expire=settings.expire,
            max_age=settings.max_age,
            tls=tls,
            server_name=upstream.server_name or settings.tls_server_name or upstream.address,
        )
        self.datagrams = UdpTransport(
            upstream,
            settings.source_address,
            entropy,
            expire=settings.expire,
            edns=self.edns,
            wrong_case=self._wrong_case,
            overdue=self._send_plain_copy,
        )
        self.probes_recursion = settings.health_recursion
        self.only_streams = settings.force_tcp or tls is not None

    @property
    def down(self) -> bool:
        """Whether more of its probes have failed than `max_fails` allows."""
        most = self._settings.max_fails
        return most > 0 and self.fails > most

    def send(self, query: UpstreamQuery, deadline: float) -> None:
        """Send a query over the transport that it needs."""
        query.edns = self.edns.asks_with(query.question, query.do, self._loop.time())
        self._send(query, deadline)

    def send_without_edns(self, query: UpstreamQuery, deadline: float) -> None:
        """Send a query again, without EDNS; a reply to the first try still counts."""
        refused = query.number
        query.edns = False
        self._send(query, deadline)
        query.also = refused

    def _send(self, query: UpstreamQuery, deadline: float) -> None:
        query.sent = now = self._loop.time()
        query.number += 1
        query.also = 0
        if query.tcp or self.only_streams:
            self.streams.send(query, deadline=deadline)
        elif not query.edns or self.edns.is_proven(now):
            self.datagrams.send(query, deadline=deadline)
        elif self.edns.suspected:
            self.datagrams.send(query, deadline=deadline)
            self._send_plain_copy(query, deadline)
        else:
            overdue = now + OVERDUE * self._settings.read_timeout
            self.datagrams.send(query, deadline=deadline, overdue=overdue)

    def _send_plain_copy(self, query: UpstreamQuery, deadline: float) -> None:
        """Ask without EDNS too: some servers drop queries with an OPT record and send no error."""
        if query.edns:
            self.datagrams.send(PlainCopy(query), deadline=deadline)

    def check(self) -> None:
        """Start to probe, unless it probes already."""
        if self._probe is None and not self._closed and self._settings.max_fails:
            self._schedule(0.0)

    def close(self) -> None:
        """Stop probing and close the sockets."""
        self._closed = True
        if self._probe is not None:
            self._probe.cancel()
        self.datagrams.close()
        self.streams.close()

    def _schedule(self, delay: float) -> None:
        self._probe = self._loop.call_later(delay, self._send_probe)

    def _send_probe(self) -> None:
        self.send(_Probe(self._health, self), self._loop.time() + PROBE_SECONDS)

    def probed(self, result: Reply | Failed) -> None:
        """Handle the result of a probe. Any reply shows that the server is alive."""
        if self._closed:
            return
        if isinstance(result, Reply):
            self.fails = 0
            self._probe = None
            return
        self.fails += 1
        self.failed_probes += 1
        self._schedule(self._settings.health_interval)

    def _wrong_case(self, query: UpstreamQuery) -> None:
        """A reply in other letter case: it is forged, or the server changes the case. TCP tells
        which.
        """
        self.datagrams.mixes_case = False
        self._loop.call_later(CASE_BLIND_SECONDS, self._mix_again)
        query.tcp = True
        self.send(query, min(self._loop.time() + self._settings.read_timeout, query.end))

    def _mix_again(self) -> None:
        self.datagrams.mixes_case = True


class _Probe(UpstreamQuery):
    """A question that only asks whether the server is alive."""

    __slots__ = ("_server",)

    def __init__(self, question: bytes, server: UpstreamServer) -> None:
        super().__init__(question, do=False, cd=False, rd=server.probes_recursion)
        self._server = server

    def result(self, result: Reply | Failed) -> None:
        self._server.probed(result)


def _tls_context(settings: Forward) -> ssl.SSLContext:
    """Read the certificates that `tls` names. Raises OSError that says which."""
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:
        files = (settings.tls_cert, settings.tls_key, settings.tls_ca)
        raise OSError(f"forward: tls {' '.join(filter(None, files))}: {error}") from error
    return context
