"""A Corefile's content as data. Times are in seconds; names are lower case and end in a dot."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from nat64_dataplane import pref64

MAPPED = IPv6Network("::ffff:0:0/96")
"""IPv4-mapped addresses: never a way to reach anything (RFC 6147 section 5.1.4)."""


class Ptr(enum.Enum):
    """How PTR queries for addresses under a Pref64 are answered (RFC 6147 section 5.3.1)."""

    CNAME = "cname"
    LOCAL = "local"
    OFF = "off"


class Unprogrammed(enum.Enum):
    """What to do while the node's translator isn't programmed."""

    PASSTHROUGH = "passthrough"
    SERVFAIL = "servfail"


@dataclass(frozen=True, slots=True)
class Dns64:
    """The `dns64` stanza: CoreDNS's options first, then what goes beyond it."""

    prefixes: tuple[IPv6Network, ...] = (pref64.WELL_KNOWN,)
    translate_all: bool = False
    allow_ipv4: bool = False
    exclude_aaaa: tuple[IPv6Network, ...] = (MAPPED,)
    exclude_a: tuple[IPv4Network, ...] = ()
    maps: tuple[tuple[IPv4Network, tuple[IPv6Network, ...]], ...] = ()
    """Longest range first."""
    exempt: tuple[str, ...] = ()
    ptr: Ptr = Ptr.CNAME
    ptr_name: str = ""
    break_dnssec: bool = True
    allow_special_use: bool = False
    """Let the well-known prefix stand for non-global IPv4, against RFC 6052 section 3.1."""
    translator: str = ""
    """Path of the translator's status file; empty if synthesis doesn't depend on one."""
    unprogrammed: Unprogrammed = Unprogrammed.PASSTHROUGH

    @property
    def all_prefixes(self) -> tuple[IPv6Network, ...]:
        """Every prefix in use, those of `map` included, each once."""
        mapped = (prefix for _, prefixes in self.maps for prefix in prefixes)
        return tuple(dict.fromkeys((*self.prefixes, *mapped)))


@dataclass(frozen=True, slots=True)
class Upstream:
    """One server to forward to. `transport` is `dns` or `tls`."""

    address: str
    port: int = 53
    transport: str = "dns"
    server_name: str = ""

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        scheme = "tls://" if self.transport == "tls" else ""
        return f"{scheme}{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Forward:
    """A `forward` stanza: which names go to which servers, and how those are chosen."""

    zone: str
    upstreams: tuple[Upstream, ...]
    excepted: tuple[str, ...] = ()
    force_tcp: bool = False
    prefer_udp: bool = False
    expire: float = 10.0
    max_age: float = 0.0
    max_idle_conns: int = 0
    read_timeout: float = 2.0
    max_fails: int = 2
    max_connect_attempts: int | None = None
    """None stands for twice the number of upstreams, 0 for no limit."""
    policy: str = "random"
    health_interval: float = 0.5
    health_recursion: bool = True
    health_domain: str = "."
    max_concurrent: int = 0
    """Queries in flight at once; 0 for no limit of this stanza's own."""
    failfast: bool = False
    failover: frozenset[int] = frozenset()
    next_rcodes: frozenset[int] = frozenset()
    next_on_nodata: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_server_name: str = ""
    source_address: str = ""


@dataclass(frozen=True, slots=True)
class ServeStale:
    """How expired answers are used (RFC 8767)."""

    duration: float = 3600.0
    verify: bool = False
    verify_timeout: float = 0.0
    """How long a verify may take before the stale answer is sent; 0: as long as an upstream may
    take."""
    ttl: int = 0
    recheck: float = 0.0


@dataclass(frozen=True, slots=True)
class Cache:
    """The `cache` stanza. Bounds are in entries, TTLs in seconds."""

    zones: tuple[str, ...] = (".",)
    success_capacity: int = 9984
    success_ttl: int = 3600
    success_min_ttl: int = 5
    denial_capacity: int = 9984
    denial_ttl: int = 1800
    denial_min_ttl: int = 5
    servfail_ttl: float = 5.0
    prefetch: int = 0
    """How many queries make an answer worth fetching again before it expires; 0: never."""
    prefetch_duration: float = 60.0
    prefetch_percent: int = 10
    stale: ServeStale | None = None
    prefer_positive: bool = False
    no_success: tuple[str, ...] = ()
    no_denial: tuple[str, ...] = ()
    keep_ttl: bool = False


@dataclass(frozen=True, slots=True)
class AclRule:
    """One line of `acl`. Empty `types` or `networks` stand for all."""

    action: str
    types: frozenset[int]
    networks: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Acl:
    """An `acl` stanza: the first rule that matches decides."""

    zones: tuple[str, ...]
    rules: tuple[AclRule, ...]


@dataclass(frozen=True, slots=True)
class LogRule:
    """A `log` stanza: names below `zone` whose response is in `classes`."""

    zone: str
    format: str
    classes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Consolidate:
    """An `errors` option: similar messages are counted for `duration` and logged once."""

    duration: float
    pattern: str
    level: str = "error"
    show_first: bool = False


@dataclass(frozen=True, slots=True)
class Listen:
    """Where an HTTP endpoint listens; an empty host is every address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Reload:
    """How often the Corefile is checked for changes, in seconds."""

    interval: float = 30.0
    jitter: float = 15.0


@dataclass(frozen=True, slots=True)
class Server:
    """One server block: what it serves, where, and with which plugins."""

    zones: tuple[str, ...]
    port: int
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    """From `bind`; empty is every address."""
    forwards: tuple[Forward, ...] = ()
    dns64: Dns64 | None = None
    cache: Cache | None = None
    acls: tuple[Acl, ...] = ()
    log: tuple[LogRule, ...] = ()
    errors: bool = False
    consolidate: tuple[Consolidate, ...] = ()
    metrics: bool = False
    loop: bool = False

    @property
    def stanzas(self) -> tuple[str, ...]:
        """The names of the stanzas that take part in answering."""
        present = {
            "acl": self.acls,
            "cache": self.cache,
            "dns64": self.dns64,
            "errors": self.errors,
            "forward": self.forwards,
            "log": self.log,
            "loop": self.loop,
            "prometheus": self.metrics,
        }
        return tuple(name for name, value in present.items() if value)

    @property
    def label(self) -> str:
        """CoreDNS's `server` label, as in `dns://:53`."""
        host = str(self.addresses[0]) if self.addresses else ""
        return f"dns://[{host}]:{self.port}" if ":" in host else f"dns://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole Corefile. Settings of the whole process are beside the server blocks."""

    servers: tuple[Server, ...]
    health: Listen | None = None
    lameduck: float = 0.0
    ready: Listen | None = None
    prometheus: Listen | None = None
    runtime_metrics: bool = False
    """Show the interpreter's own counts too."""
    reload: Reload | None = None
    content_hash: str = ""
    """SHA-512 in hex over the Corefile and what it imports."""
