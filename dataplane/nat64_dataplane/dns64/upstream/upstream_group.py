"""The servers of one `forward` stanza: which one is asked, when another one is, and which count as
down.

As in CoreDNS, an upstream that fails is probed until it answers, and counts as down after
`max_fails` failed probes. If all are down, one is asked anyway, unless
`failfast_all_unhealthy_upstreams` is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nat64_dataplane.dns64.host.random_bytes import Entropy
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.domain_names import Zones
from nat64_dataplane.dns64.message.failed import Failed
from nat64_dataplane.dns64.message.wire import Reply
from nat64_dataplane.dns64.settings import Forward
from nat64_dataplane.dns64.upstream.upstream_query import TOTAL_SECONDS, Done, UpstreamQuery
from nat64_dataplane.dns64.upstream.upstream_server import UpstreamServer

UNLIMITED = 1_000_000
ROUND_SECONDS = 0.05
"""The pause between two rounds through all servers if `max_connect_attempts 0` allows any number.
Without it, servers that fail at once would be tried in a busy loop."""

Observe = Callable[[str, int | None, float], None]
"""Called for each exchange with the server, the RCODE or None, and the seconds it took."""


class UpstreamGroup:
    """A running `forward` stanza."""

    def __init__(self, settings: Forward, entropy: Entropy, observe: Observe) -> None:
        self.settings = settings
        self.entropy = entropy
        self.observe = observe
        self.under_way = 0
        self.rejected = 0
        self.all_down = 0
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self.call_later = loop.call_later
        most = settings.max_connect_attempts
        self.tries = 2 * len(settings.upstreams) if most is None else most or UNLIMITED
        self._turn = 0
        self._zone = domain_names.from_text(settings.zone)
        self._excepted = Zones(settings.excepted)
        self.everything = self._zone == b"\0" and not settings.excepted
        self.servers = [
            UpstreamServer(upstream, settings, entropy) for upstream in settings.upstreams
        ]

    def serves(self, name: bytes) -> bool:
        """Whether this stanza matches a name."""
        if self.everything:
            return True
        if self._zone != b"\0" and self._zone not in domain_names.ancestors(name):
            return False
        return name not in self._excepted or name == self._zone

    def passes_on(self, reply: Reply) -> bool:
        """Whether a reply passes the question on to the next `forward` stanza."""
        if reply.rcode in self.settings.next_rcodes:
            return True
        return self.settings.next_on_nodata and not reply.rcode and not reply.answer

    def ask(self, question: bytes, *, do: bool, cd: bool, rd: bool = True, done: Done) -> None:
        """Ask a question, in lower case; `done` gets the reply, or Failed after all tries."""
        self.start(Attempts(self, question, do=do, cd=cd, rd=rd, done=done))

    def start(self, tries: Attempts) -> None:
        """Begin with the first try, unless too many questions are in flight."""
        self.under_way += 1
        if 0 < self.settings.max_concurrent < self.under_way:
            self.rejected += 1
            tries.finished(Failed("max_concurrent queries are in flight", wire.REFUSED))
        else:
            tries.proceed()

    def order(self) -> list[UpstreamServer]:
        """The servers in the policy's order for one question."""
        servers = self.servers
        if len(servers) == 1 or self.settings.policy == "sequential":
            return servers
        if self.settings.policy == "round_robin":
            self._turn = (self._turn + 1) % len(servers)
            return servers[self._turn :] + servers[: self._turn]
        shuffled = list(servers)
        for index in range(len(shuffled) - 1, 0, -1):
            other = self.entropy.below(index + 1)
            shuffled[index], shuffled[other] = shuffled[other], shuffled[index]
        return shuffled

    def close(self) -> None:
        """Close every socket."""
        for server in self.servers:
            server.close()


class Attempts(UpstreamQuery):
    """The tries for one question, until a server answers or the time or the tries are used up."""

    __slots__ = (
        "_at", "_done", "_held", "_left", "_order", "_reason", "_refused", "_server", "group",
        "over",
    )  # fmt: skip

    def __init__(
        self,
        group: UpstreamGroup,
        question: bytes,
        *,
        do: bool,
        cd: bool,
        rd: bool = True,
        done: Done,
    ) -> None:
        super().__init__(question, do=do, cd=cd, rd=rd)
        self.group = group
        self._done = done
        self._order = group.order()
        self._at = 0
        self.end = group.now() + TOTAL_SECONDS
        self._left = group.tries
        self._reason = "no upstream is healthy"
        self.over = False
        """Whether the result has been handed over."""
        self._server: UpstreamServer | None = None
        self._refused = False
        """Whether this server answered FORMERR or NOTIMP with EDNS, and is asked without it."""
        self._held: Reply | None = None
        """A reply to the copy without EDNS, kept until it is clear that no other will come."""

    def proceed(self) -> None:
        """Try the next server, or end. Never raises."""
        try:
            self.next()
        except Exception:  # a fault of the sidecar costs one answer, not the server
            faults.log("asking upstream")
            self.waits = False
            self.fault()

    def fault(self) -> None:
        """End as if no upstream had answered, unless the result has been handed over."""
        if not self.over:
            self.finished(Failed("internal error"))

    def next(self) -> None:
        """Try the next server, or end."""
        now = self.group.now()
        server = self._choose() if self._left and now < self.end else None
        if server is None:
            self.finished(Failed(self._reason))
            return
        self._left -= 1
        self._server = server
        self.tcp = False
        self._send(server, now)

    def result(self, result: Reply | Failed) -> None:
        """Accept a reply, or continue with another transport or server."""
        server, group = self._server, self.group
        assert server is not None, "a result comes after a try"
        now = group.now()
        if isinstance(result, Failed):
            if self._held is None:
                self._failed(server, result, now)
                return
            server.edns.stayed_silent(now)
            result, self._held, self.edns = self._held, None, False
        rcode = result.rcode
        group.observe(server.label, rcode, now - self.sent)
        if result.flags & wire.TC:
            if self.tcp or server.only_streams:
                self._reason = f"{server.label}: a truncated reply over TCP"
                self.next()
                return
            self.tcp = True
            self._send(server, now)
        elif self.edns and not self._refused and _refuses_edns(result):
            self._refused = True
            server.send_without_edns(self, self._deadline(now))
        elif rcode in group.settings.failover and self._at < len(self._order):
            self.next()
        elif rcode == wire.FORMERR and not _is_meta(self.question):
            # the client's question was valid, so FORMERR is about our own message
            self.finished(Failed(f"{server.label}: FORMERR"))
        else:
            self._note_edns(server, rcode, now)
            self.finished(result)

    def plain_reply(self, reply: Reply) -> None:
        """Accept a reply to the copy without EDNS. It lacks the data that DO asks for, so with DO
        it waits until the end of the try for the reply with EDNS.
        """
        assert self._server is not None, "a reply comes after a try"
        self._server.edns.suspect()
        if self.do:
            self._held = reply
            return
        self.edns = False
        self.finish(reply)

    def _failed(self, server: UpstreamServer, failed: Failed, now: float) -> None:
        """Continue with another server after a try without a reply."""
        group = self.group
        group.observe(server.label, None, now - self.sent)
        self._reason = failed.reason
        server.check()
        if group.tries == UNLIMITED and self._at % len(self._order) == 0:
            group.call_later(ROUND_SECONDS, self.proceed)
        else:
            self.next()

    def _note_edns(self, server: UpstreamServer, rcode: int, now: float) -> None:
        if self._refused and not self.edns and rcode in (wire.NOERROR, wire.NXDOMAIN):
            server.edns.plain_did_better(self.question, self.do, now)

    def succeeded(self, rcode: int) -> None:
        """Count a reply."""
        assert self._server is not None, "a reply comes after a try"
        now = self.group.now()
        self.group.observe(self._server.label, rcode, now - self.sent)
        self._note_edns(self._server, rcode, now)

    def restart(self, question: bytes) -> None:
        """Ask another question, with the full number of tries."""
        self.question = question
        self._order = self.group.order()
        self._at = 0
        self.end = self.group.now() + TOTAL_SECONDS
        self._left = self.group.tries
        self.next()

    def _send(self, server: UpstreamServer, now: float) -> None:
        self._refused, self._held = False, None
        server.send(self, self._deadline(now))

    def _deadline(self, now: float) -> float:
        return min(now + self.group.settings.read_timeout, self.end)

    def _choose(self) -> UpstreamServer | None:
        for _ in self._order:
            server = self._order[self._at % len(self._order)]
            self._at += 1
            if not server.down:
                return server
        self.group.all_down += 1
        if self.group.settings.failfast:
            return None
        return self._order[self.group.entropy.below(len(self._order))]

    def finished(self, result: Reply | Failed) -> None:
        """Hand over the result of all tries."""
        self.over = True
        self.group.under_way -= 1
        self._done(result)


def _refuses_edns(reply: Reply) -> bool:
    """Whether a reply may mean that the question must be asked without EDNS."""
    return reply.rcode == wire.FORMERR or (reply.rcode == wire.NOTIMP and reply.edns is None)


def _is_meta(question: bytes) -> bool:
    """Whether a question is of a meta type (RFC 6895 section 3.1), which a server may refuse."""
    return 128 <= int.from_bytes(question[-4:-2], "big") <= 255
