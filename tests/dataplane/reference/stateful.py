"""RFC 6146: bindings, sessions, filtering, policy and fragments around RFC 7915's translation.

Nothing expires here: the test's timers are longer than the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from tests.dataplane.reference import icmp
from tests.dataplane.reference.fragments import Packet, Packets
from tests.dataplane.reference.headers import (
    ICMP,
    ICMPV6,
    SHORTEST,
    TCP,
    UDP,
    Header4,
    Header6,
    Refused,
    embed,
    extract,
    has_unexpired_source_route,
)
from tests.dataplane.reference.policy import NEVER_A_CLIENT, NEVER_A_SOURCE, Policy, within
from tests.dataplane.reference.quoted import ports, quoted_ipv4, quoted_ipv6
from tests.dataplane.reference.stateless import Client, Outcome, Public, Stateless

_FIN, _SYN, _RST = 1, 2, 4

Session = tuple[int, Public, IPv4Address, int]
"""Protocol, pool address and port, remote address and port (0 for ICMP)."""


@dataclass
class Open:
    """A session."""

    policy: Policy
    """The one that it was last found to obey."""
    counts: bool = True
    """False for a filtered SYN's, until the client has sent something."""
    outside: bool = False
    """Whether a packet of its client came from behind an uplink, and the policy let it."""


@dataclass
class Nat64:
    """One translator's view of the world."""

    prefix: IPv6Network
    policy: Policy
    claim: Callable[[int, Client], Public]
    """The port that the translator under test has picked for a new binding."""
    copy_traffic_class: bool = True
    address_dependent: bool = False
    lowest_ipv6_mtu: int = 1280
    link_mtu: int = 1500
    ports: int = 65535
    """How many each protocol has in the pool."""
    lend_ports: bool = False
    """Whether TCP clients that find none share them, one for each remote end."""
    outside: dict[tuple[int, Client], Public] = field(default_factory=dict)
    inside: dict[tuple[int, Public], Client] = field(default_factory=dict)
    sessions: dict[Session, Open] = field(default_factory=dict)
    lent: dict[tuple[Client, IPv4Address, int], Public] = field(default_factory=dict)
    borrowers: dict[Session, Client] = field(default_factory=dict)
    contacts: set[tuple[int, Public, IPv4Address]] = field(default_factory=set)
    packets: Packets = field(default_factory=Packets)

    def __post_init__(self) -> None:
        self.stateless = Stateless(self.prefix, self.copy_traffic_class)

    # ---- IPv6 to IPv4 ------------------------------------------------------------------------

    def from_ipv6(
        self, packet: bytes, ttl: int, *, behind_uplink: bool = False, segment: int = 0
    ) -> Outcome:
        """What becomes of a packet of the IPv6 side; `ttl` is what its TTL becomes, `segment` the
        payload of the segments that it is to be cut into."""
        if len(packet) < 40:
            raise Refused("truncated")
        if packet[0] >> 4 != 6:
            raise Refused("malformed")
        source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        if destination not in self.prefix:
            raise Refused("passed")
        if source in self.prefix:
            raise Refused("source_in_prefix")
        head = Header6.read(packet, whole=True)
        if head.next_header not in (TCP, UDP, ICMPV6):
            raise Refused("unknown_transport")
        protocol = ICMP if head.next_header == ICMPV6 else head.next_header
        if head.is_fragment and protocol == ICMP:
            raise Refused("icmp_fragment")
        known = self.packets.of(head, (source, destination, head.fragment_id, protocol))
        remote = extract(self.prefix, destination)
        payload = head.payload(packet)
        if head.offset:
            pool = known.later()
            out = self.stateless.header_to_ipv4(head, ttl, protocol, pool, remote, payload)
            return out._replace(to_ourselves=known.to_ourselves)
        if len(payload) < SHORTEST[head.next_header]:
            raise Refused("fragment_unexpected" if head.is_fragment else "truncated")
        if protocol == ICMP and payload[0] < 128:
            return self._error_from_ipv6(head, payload, ttl, behind_uplink=behind_uplink)
        if protocol == ICMP and payload[0] not in (128, 129):
            raise Refused("icmp_type")
        if head.is_fragment:
            known.first()
        try:
            public, to_ourselves = self._open_from_ipv6(
                protocol, head, payload, remote, behind_uplink=behind_uplink
            )
        except Refused:
            known.fate = "drop"
            raise
        known.fate, known.end, known.to_ourselves = "translate", public[0], to_ourselves
        body = self.stateless.transport_to_ipv4(payload, head, public, remote, inner=False)
        on_wire = 20 + _header_length(protocol, payload) + segment if segment else None
        out = self.stateless.header_to_ipv4(
            head, ttl, protocol, public[0], remote, body, on_wire=on_wire
        )
        return out._replace(to_ourselves=to_ourselves)

    def _open_from_ipv6(
        self,
        protocol: int,
        head: Header6,
        payload: bytes,
        remote: IPv4Address,
        *,
        behind_uplink: bool,
    ) -> tuple[Public, bool]:
        """The client's binding, and whether the remote end is one of ours too."""
        port, remote_port = ports(protocol, payload)
        client = (head.source, port)
        hairpin = protocol != ICMP and (protocol, (remote, remote_port)) in self.inside
        public = self.outside.get((protocol, client))
        is_syn = protocol == TCP and _is_syn(payload)
        key = (protocol, public, remote, remote_port) if public else None

        def check(session: Open | None = None) -> None:
            # Whoever opened it: this packet may be a stranger's.
            asked = behind_uplink and not (session and session.outside)
            if session and session.policy is self.policy and not asked:
                return
            self.policy.check(
                self.prefix, protocol, head.source, remote, hairpin, behind_uplink=behind_uplink
            )
            if session:
                session.policy = self.policy
                session.outside |= behind_uplink

        if public and key in self.sessions and key not in self.borrowers:
            check(self.sessions[key])
            if is_syn:
                self.contacts.add((protocol, public, remote))
            self.sessions[key].counts = True
            return public, hairpin
        if protocol == TCP and (lent := self.lent.get((client, remote, remote_port))):
            check(self.sessions[protocol, lent, remote, remote_port])
            return lent, False
        if within(head.source, NEVER_A_CLIENT):
            raise Refused("source_illegal")
        if protocol == TCP and not is_syn and not public:
            raise Refused("tcp_without_session")
        check()
        if not public:
            if sum(held == protocol for held, _ in self.inside) >= self.ports:
                lent = self._lend(
                    protocol, client, remote, remote_port, hairpin, behind_uplink=behind_uplink
                )
                return lent, False
            public = self.claim(protocol, client)
            assert (protocol, public) not in self.inside, f"{public} is somebody's already"
            self.outside[protocol, client] = public
            self.inside[protocol, public] = client
        if protocol != TCP or is_syn:
            if (protocol, public, remote, remote_port) in self.borrowers:
                raise Refused("ports_exhausted")  # our port, lent out to this remote end
            opened = Open(self.policy, outside=behind_uplink)
            self.sessions[protocol, public, remote, remote_port] = opened
            self.contacts.add((protocol, public, remote))
        return public, hairpin

    def _lend(
        self,
        protocol: int,
        client: Client,
        remote: IPv4Address,
        remote_port: int,
        hairpin: bool,
        *,
        behind_uplink: bool,
    ) -> Public:
        """A port that others hold, but that nobody uses towards this remote end."""
        used = sum(key[0] == TCP and key[2:] == (remote, remote_port) for key in self.sessions)
        if protocol != TCP or hairpin or not self.lend_ports or used >= self.ports:
            raise Refused("ports_exhausted")
        public = self.claim(protocol, client)
        key = (protocol, public, remote, remote_port)
        assert (protocol, public) in self.inside, f"{public} is free"
        assert key not in self.sessions, f"{public} is in use towards {remote} {remote_port}"
        self.lent[client, remote, remote_port] = public
        self.borrowers[key] = client
        self.sessions[key] = Open(self.policy, outside=behind_uplink)
        return public

    def _error_from_ipv6(
        self, head: Header6, message: bytes, ttl: int, *, behind_uplink: bool
    ) -> Outcome:
        if (message[0], message[1]) not in icmp.ERRORS_TO_IPV4:
            raise Refused("icmp_type")
        inner, (remote_port, port) = quoted_ipv6(message[8:], self.prefix)
        protocol = ICMP if inner.next_header == ICMPV6 else inner.next_header
        client, remote = (inner.destination, port), extract(self.prefix, inner.source)
        public = self.outside.get((protocol, client))
        key = (protocol, public, remote, remote_port) if public else None
        if not public or key not in self.sessions or key in self.borrowers:
            public = self.lent.get((client, remote, remote_port)) if protocol == TCP else None
        if not public:
            raise Refused("icmp_without_session")
        session = self.sessions.get((protocol, public, remote, remote_port))
        if behind_uplink and not (session and session.outside):
            raise Refused("source_behind_uplink")
        ours = protocol != ICMP and remote in self.policy.pool
        mtu = 0xFFFF if ours else self.link_mtu
        out = self.stateless.error_to_ipv4(head, message, inner, public, ttl, mtu)
        return out._replace(to_ourselves=ours)

    # ---- IPv4 to IPv6 ------------------------------------------------------------------------

    def from_ipv4(
        self, packet: bytes, hop_limit: int, *, from_ourselves: bool = False, segment: int = 0
    ) -> Outcome:
        """What becomes of a packet of the IPv4 side; `hop_limit` is what its hop limit becomes."""
        head = Header4.read(packet, whole=True)
        protocol, payload = head.protocol, head.payload(packet)
        if protocol not in (TCP, UDP, ICMP):
            raise Refused("passed")
        known = self.packets.of(
            head, (head.source, head.destination, head.identification, protocol)
        )
        source = embed(self.prefix, head.source)
        if head.offset:
            if head.destination not in self.policy.pool:
                raise Refused("passed")
            client = known.later()
            self._check_options(head, packet)
            later = self.stateless.header_to_ipv6(head, hop_limit, source, client, payload)
            return Outcome(later, in_fragments=self._goes_in_fragments(known, head, segment))
        if len(payload) < SHORTEST[protocol]:
            if head.is_fragment and protocol != ICMP and head.destination in self.policy.pool:
                known.first()
                known.fate = "pass"
            raise Refused("passed")
        if protocol == ICMP and payload[0] not in (0, 8):
            if head.is_fragment:
                raise Refused("passed")
            link_mtu = 0xFFFF if from_ourselves else self.link_mtu
            return self._error_from_ipv4(head, packet, hop_limit, link_mtu)
        if head.is_fragment and head.destination in self.policy.pool:
            known.first()
        try:
            client_at = self._open_from_ipv4(head, payload, from_ourselves)
            if head.is_fragment and protocol == ICMP:
                raise Refused("icmp_fragment")
            if head.is_fragment and protocol == UDP and payload[6:8] == b"\0\0":
                raise Refused("udp_zero_checksum_fragment")
            self._check_options(head, packet)
        except Refused as refused:
            known.fate = "pass" if refused.reason == "passed" else "drop"
            raise
        known.fate, known.end = "translate", client_at[0]
        body = self.stateless.transport_to_ipv6(payload, head, client_at, source, inner=False)
        out = self.stateless.header_to_ipv6(head, hop_limit, source, client_at[0], body)
        known.in_fragments = False
        return Outcome(out, in_fragments=self._goes_in_fragments(known, head, segment))

    def _open_from_ipv4(self, head: Header4, payload: bytes, from_ourselves: bool) -> Client:
        protocol = head.protocol
        remote_port, port = ports(protocol, payload, back=True)
        public = (head.destination, port)
        key = (protocol, public, head.source, remote_port)
        client = self.borrowers.get(key) or self.inside.get((protocol, public))
        if not client:
            raise Refused("passed")
        forged = head.source in self.policy.pool and not from_ourselves
        hairpin = protocol != ICMP and (protocol, (head.source, remote_port)) in self.inside
        if session := self.sessions.get(key):
            if forged:
                raise Refused("source_illegal")
            if session.policy is not self.policy:
                self.policy.check(self.prefix, protocol, client[0], head.source, hairpin)
                session.policy = self.policy
            if not session.counts:
                raise Refused("filtered")
            return client
        if within(head.source, NEVER_A_SOURCE):
            raise Refused("source_illegal")
        self.policy.check_client(client[0])
        if forged:
            raise Refused("source_illegal")
        self.policy.check(self.prefix, protocol, client[0], head.source, hairpin)
        is_syn = protocol == TCP and _is_syn(payload)
        strange = (protocol, public, head.source) not in self.contacts
        if self.address_dependent and strange:
            if is_syn:
                self.sessions[key] = Open(self.policy, counts=False)
            raise Refused("filtered")
        if protocol != TCP or is_syn:
            self.sessions[key] = Open(self.policy)
        return client

    def _error_from_ipv4(
        self, head: Header4, packet: bytes, hop_limit: int, link_mtu: int
    ) -> Outcome:
        message = head.payload(packet)
        inner, (port, remote_port) = quoted_ipv4(message[8:])
        public = (inner.source, port)
        key = (inner.protocol, public, inner.destination, remote_port)
        if key not in self.sessions:
            raise Refused("passed")
        client = self.borrowers.get(key) or self.inside[inner.protocol, public]
        if within(head.source, NEVER_A_SOURCE):
            raise Refused("source_illegal")
        self._check_options(head, packet, answerable=False)
        # RFC 6052 section 3.1: the well-known prefix can't name a private router.
        router = head.source
        if self.policy.refusal(self.prefix, router) == "destination_not_global":
            router = inner.destination
        source = embed(self.prefix, router)
        mtus = (link_mtu, self.link_mtu)
        return self.stateless.error_to_ipv6(head, message, inner, client, source, hop_limit, mtus)

    def _check_options(self, head: Header4, packet: bytes, *, answerable: bool = True) -> None:
        if has_unexpired_source_route(packet[20 : head.size]):
            raise Refused("source_route", answerable=answerable and not head.offset)

    def _goes_in_fragments(self, known: Packet, head: Header4, segment: int) -> bool:
        """Where it is too long, and where it must not overtake a fragment that was."""
        if segment or (head.df and not head.is_fragment) or head.ttl <= 1:
            return False
        known.in_fragments |= 40 + 8 * head.is_fragment + head.length > self.lowest_ipv6_mtu
        return known.in_fragments


def _is_syn(payload: bytes) -> bool:
    return bool(payload[13] & _SYN and not payload[13] & (_FIN | _RST))


def _header_length(protocol: int, payload: bytes) -> int:
    return (payload[12] >> 4) * 4 if protocol == TCP else SHORTEST[protocol]
