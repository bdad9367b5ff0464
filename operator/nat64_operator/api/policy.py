"""DNS64Policy: the model of its spec. Its defaults are also the sidecar's if there is no policy."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Self

import msgspec

from nat64_operator.api.host_ports import DEFAULT_NAME
from nat64_operator.api.meta import Meta, Object, Resource, Spec, read_spec

KIND = "DNS64Policy"
PLURAL = "dns64policies"

NODE_RESOLVERS = "/etc/resolv.conf"
"""The word for the node's own resolvers in a Corefile."""


class Mode(enum.Enum):
    """How CoreDNS is pointed at the sidecars."""

    FORWARD = "Forward"
    IMPORT = "Import"
    PLUGIN = "Plugin"
    MANUAL = "Manual"


class FailMode(enum.Enum):
    """How external names resolve while no sidecar answers."""

    FALLBACK = "Fallback"
    FAIL = "Fail"


class Ptr(enum.Enum):
    """How reverse lookups of synthesized addresses are answered."""

    CNAME = "CNAME"
    LOCAL = "Local"
    UPSTREAM = "Upstream"


class Untranslated(enum.Enum):
    """What a sidecar answers while its own node doesn't translate."""

    PASSTHROUGH = "Passthrough"
    SERVFAIL = "ServFail"


class ForwardPolicy(enum.Enum):
    """Which upstream is asked first."""

    SEQUENTIAL = "Sequential"
    ROUND_ROBIN = "RoundRobin"
    RANDOM = "Random"


class StaleMode(enum.Enum):
    """When an expired answer is used."""

    IMMEDIATE = "Immediate"
    VERIFY = "Verify"


class LogClass(enum.Enum):
    """What a response is, for the query log."""

    SUCCESS = "Success"
    DENIAL = "Denial"
    ERROR = "Error"


class LogFormat(enum.Enum):
    """CoreDNS's formats of the query log."""

    COMMON = "Common"
    COMBINED = "Combined"


class LogQueries(enum.Enum):
    """Which queries are logged."""

    NONE = "None"
    ERRORS = "Errors"
    ALL = "All"


class GatewayRef(Spec, frozen=True, kw_only=True):
    """The NAT64Gateway that a policy belongs to."""

    name: str = DEFAULT_NAME


class CoreDNS(Spec, frozen=True, kw_only=True):
    """Where CoreDNS's configuration is, and how to change it."""

    mode: Mode = Mode.FORWARD
    namespace: str = "kube-system"
    config_map_name: str = "coredns"
    custom_config_map_name: str = "coredns-custom"
    fail_mode: FailMode = FailMode.FALLBACK


class Mapping(Spec, frozen=True, kw_only=True):
    """An IPv4 range that is translated with prefixes of its own."""

    range: str
    prefix: str
    additional_prefixes: tuple[str, ...] = ()


class UpstreamSource(enum.Enum):
    """Whose resolver an upstream is."""

    ADDRESS = "Address"
    NODE = "Node"


class TLS(Spec, frozen=True, kw_only=True):
    """DNS over TLS (RFC 7858)."""

    server_name: str = ""


class Upstream(Spec, frozen=True, kw_only=True):
    """A resolver that the sidecars ask."""

    source: UpstreamSource = UpstreamSource.ADDRESS
    address: str | None = None
    port: int | None = None
    tls: TLS | None = None

    def __post_init__(self) -> None:
        if (self.source is UpstreamSource.ADDRESS) != bool(self.address):
            raise ValueError("an address goes with the source Address, and with no other")

    @property
    def word(self) -> str:
        """The upstream as a Corefile writes it."""
        if self.address is None:
            return NODE_RESOLVERS
        name = f"%{self.tls.server_name}" if self.tls and self.tls.server_name else ""
        port = f":{self.port}" if self.port else ""
        is_plain = self.tls is None and not port
        if ":" in self.address and not is_plain:
            return f"{'tls://' if self.tls else ''}[{self.address}{name}]{port}"
        return f"{'tls://' if self.tls else ''}{self.address}{name}{port}"


def words(upstreams: Iterable[Upstream]) -> tuple[str, ...]:
    """Upstreams as a Corefile writes them, each once."""
    return tuple(dict.fromkeys(upstream.word for upstream in upstreams))


class Zone(Spec, frozen=True, kw_only=True):
    """Names that other upstreams are asked for."""

    name: str
    upstreams: tuple[Upstream, ...]
    pass_on: tuple[str, ...] = ()


class HealthCheck(Spec, frozen=True, kw_only=True):
    """How an upstream that failed is probed."""

    interval_milliseconds: int = 500
    domain: str = "."
    recursion_desired: bool = True


class Forward(Spec, frozen=True, kw_only=True):
    """How upstreams are asked. The defaults are the sidecar's own, but for `policy`."""

    policy: ForwardPolicy | None = None
    """None: CoreDNS's own choice for its upstreams, SEQUENTIAL for others."""
    health_check: HealthCheck = HealthCheck()
    max_fails: int = 2
    max_connect_attempts: int | None = None
    read_timeout_milliseconds: int = 2000
    expire_seconds: int = 10
    max_age_seconds: int = 0
    max_concurrent: int = 0
    force_tcp: bool = msgspec.field(default=False, name="forceTCP")
    fail_fast: bool = False
    failover: tuple[str, ...] = ()


class Prefetch(Spec, frozen=True, kw_only=True):
    """Which answers are asked for again before they expire."""

    queries: int = 0
    within_seconds: int = 60
    percent: int = 10


class ServeStale(Spec, frozen=True, kw_only=True):
    """Whether and how expired answers are used."""

    max_seconds: int = 0
    mode: StaleMode = StaleMode.IMMEDIATE
    verify_timeout_milliseconds: int = 0
    ttl_seconds: int = 0
    recheck_seconds: int = 0
    prefer_positive: bool = False


class Disable(Spec, frozen=True, kw_only=True):
    """Names whose answers are not kept."""

    success: tuple[str, ...] = ()
    denial: tuple[str, ...] = ()


class Cache(Spec, frozen=True, kw_only=True):
    """The sidecars' cache."""

    max_ttl_seconds: int = msgspec.field(default=3600, name="maxTTLSeconds")
    min_ttl_seconds: int = msgspec.field(default=5, name="minTTLSeconds")
    denial_max_ttl_seconds: int | None = msgspec.field(default=None, name="denialMaxTTLSeconds")
    """None for max_ttl_seconds."""
    denial_min_ttl_seconds: int = msgspec.field(default=5, name="denialMinTTLSeconds")
    success_entries: int = 100_000
    denial_entries: int = 20_000
    servfail_seconds: int = 5
    keep_ttl: bool = msgspec.field(default=False, name="keepTTL")
    prefetch: Prefetch = Prefetch()
    serve_stale: ServeStale = ServeStale()
    disable: Disable = Disable()


class Log(Spec, frozen=True, kw_only=True):
    """What is logged in addition to log_queries."""

    classes: tuple[LogClass, ...] = ()
    names: tuple[str, ...] = ()
    format: LogFormat = LogFormat.COMMON
    consolidate_errors_seconds: int = 0


class PolicySpec(Spec, frozen=True, kw_only=True):
    """The spec, defaults filled in."""

    gateway_ref: GatewayRef = GatewayRef()
    core_dns: CoreDNS = msgspec.field(default=CoreDNS(), name="coreDNS")
    upstreams: tuple[Upstream, ...] = ()
    zones: tuple[Zone, ...] = ()
    forward: Forward = Forward()
    allowed_clients: tuple[str, ...] = ()
    denied_clients: tuple[str, ...] = ()
    translate_all: bool = False
    allow_ipv4_clients: bool = msgspec.field(default=False, name="allowIPv4Clients")
    exclude_aaaa: tuple[str, ...] = msgspec.field(default=("::ffff:0:0/96",), name="excludeAAAA")
    exclude_a: tuple[str, ...] = ()
    exempt_zones: tuple[str, ...] = ("cluster.local",)
    mappings: tuple[Mapping, ...] = ()
    ptr: Ptr = Ptr.CNAME
    ptr_name: str = ""
    break_dnssec: bool = msgspec.field(default=True, name="breakDNSSEC")
    untranslated: Untranslated = Untranslated.PASSTHROUGH
    cache: Cache = Cache()
    log_queries: LogQueries = LogQueries.ERRORS
    log: Log = Log()


class Policy(Resource, frozen=True):
    """A DNS64Policy."""

    spec: PolicySpec

    @classmethod
    def parse(cls, obj: Object) -> Self:
        """Read an object. Raises InvalidObjectError where its spec has another shape."""
        return cls(Meta.of(obj), obj.get("status") or {}, KIND, read_spec(obj, PolicySpec))
