"""Sections of the translator's config file that need nothing of the others."""

from __future__ import annotations

import enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Annotated

import msgspec

from nat64_dataplane import pref64

CLAT_LENGTH = 96
"""Of the prefix of the pods' CLAT: the only length that its program and the translator read."""

MAX_LIFETIME = 65528
"""Seconds for which RFC 8781 can say that a prefix is valid."""


class Filtering(enum.Enum):
    """Which inbound packets reach an existing mapping (RFC 6146 section 3.5.2, RFC 4787)."""

    ADDRESS_AND_PORT_DEPENDENT = "AddressAndPortDependent"
    ENDPOINT_INDEPENDENT = "EndpointIndependent"
    ADDRESS_DEPENDENT = "AddressDependent"


class Section(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
):
    """One section of the file."""


class Timeouts(Section, frozen=True, kw_only=True):
    """Idle times in seconds after which a session is gone (RFC 6146 section 4)."""

    udp: Annotated[int, msgspec.Meta(ge=120, le=86400)] = 300
    icmp: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 60
    tcp_established: Annotated[int, msgspec.Meta(ge=7200, le=604800)] = 7440
    tcp_transitory: Annotated[int, msgspec.Meta(ge=240, le=86400)] = 240
    tcp_incoming_syn: Annotated[int, msgspec.Meta(ge=6, le=86400)] = 6
    fragment: Annotated[int, msgspec.Meta(ge=2, le=60)] = 2


class Limits(Section, frozen=True, kw_only=True):
    """Bounds on state. `0` in a per-client limit means that there is none."""

    sessions: Annotated[int, msgspec.Meta(ge=1024, le=16_777_216)] = 262_144
    sessions_per_client: Annotated[int, msgspec.Meta(ge=0, le=16_777_216)] | None = None
    """Sessions that one client has opened and that are not closed; None: an eighth of `sessions`,
    so that no client can keep the others out (RFC 6888 REQ-5)."""
    ports_per_client: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    new_sessions_per_second_per_client: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0

    @property
    def of_one_client(self) -> int:
        """Sessions that one client may have open; 0 for no limit."""
        default = self.sessions // 8
        return default if self.sessions_per_client is None else self.sessions_per_client


class Clat(Section, frozen=True, kw_only=True):
    """IPv4 literals in pods (464XLAT, RFC 6877): the prefix towards which the pods' own CLAT sends.

    It stands for IPv4 as `prefix` does, over the same pools, bindings and limits. Being a prefix of
    its own, it lets a pod tell the replies that its CLAT must translate from all others.
    """

    prefix: IPv6Network

    def __post_init__(self) -> None:
        if self.prefix.prefixlen != CLAT_LENGTH:
            raise ValueError(
                f"prefix {self.prefix} has length /{self.prefix.prefixlen}: the pods' CLAT takes "
                f"/{CLAT_LENGTH} only, of the lengths of RFC 6052"
            )
        pref64.check(self.prefix)
        if self.prefix == pref64.WELL_KNOWN:
            raise ValueError(
                f"prefix {self.prefix} is the well-known prefix, which must not stand for private "
                "IPv4 addresses (RFC 6052 section 3.1), and a literal may be one: take one inside "
                f"{pref64.LOCAL_USE} (RFC 8215) or of your own"
            )


class Advertise(Section, frozen=True, kw_only=True):
    """The links on which Router Advertisements tell hosts of the prefix and the route to it."""

    interfaces: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    """None: nothing is advertised."""
    interval: Annotated[int, msgspec.Meta(ge=4, le=1800)] = 600
    """MaxRtrAdvInterval of RFC 4861 section 6.2.1, in seconds."""
    route_lifetime: Annotated[int, msgspec.Meta(ge=0, le=MAX_LIFETIME)] | None = None
    """For how many seconds hosts keep route and prefix; None: three intervals. 0: hosts are told
    of the prefix only, for three intervals, as another router has the route."""

    def __post_init__(self) -> None:
        for name in self.interfaces:
            if not name or len(name.encode()) > 15 or set(name) & set("/ \t\n%"):
                raise ValueError(f"interfaces: {name!r} is not a link name: at most 15 bytes")
        if len(set(self.interfaces)) < len(self.interfaces):
            raise ValueError(f"interfaces {list(self.interfaces)} has one twice")
        if self.route_lifetime and self.route_lifetime < self.interval:
            raise ValueError(
                f"routeLifetime {self.route_lifetime} is less than the interval, {self.interval}: "
                "hosts would lose the route between two advertisements"
            )

    @property
    def seconds_of_route(self) -> int:
        """The lifetime of the route; 0 where none is advertised."""
        return 3 * self.interval if self.route_lifetime is None else self.route_lifetime

    @property
    def seconds_of_prefix(self) -> int:
        """The lifetime of the prefix."""
        return self.route_lifetime or 3 * self.interval


class StaticMapping(Section, frozen=True, kw_only=True):
    """A BIB entry that exists from the start and never expires (RFC 6146 section 3.1)."""

    protocol: str
    client: IPv6Address
    client_port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    address: IPv4Address
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]

    def __post_init__(self) -> None:
        if self.protocol not in ("tcp", "udp", "icmp"):
            raise ValueError(f"{self.protocol!r} is not a protocol: tcp, udp or icmp")
