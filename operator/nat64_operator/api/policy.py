"""DNS64Policy: the model of its spec. Its defaults are also the sidecar's without any policy."""

from __future__ import annotations

import enum
from typing import Self

import msgspec

from nat64_operator.api.gateway import DEFAULT_NAME
from nat64_operator.api.meta import Meta, Object, Resource, Spec
from nat64_operator.errors import InvalidObjectError

KIND = "DNS64Policy"
PLURAL = "dns64policies"


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
    OFF = "Off"


class Untranslated(enum.Enum):
    """What a sidecar answers while its own node doesn't translate."""

    PASSTHROUGH = "Passthrough"
    SERVFAIL = "ServFail"


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
    """An IPv4 range that stands under a prefix of its own."""

    range: str
    prefix: str


class Cache(Spec, frozen=True, kw_only=True):
    """The sidecars' cache."""

    max_ttl_seconds: int = msgspec.field(default=3600, name="maxTTLSeconds")
    success_entries: int = 100_000
    denial_entries: int = 20_000


class PolicySpec(Spec, frozen=True, kw_only=True):
    """The spec, defaults filled in."""

    gateway_ref: GatewayRef = GatewayRef()
    core_dns: CoreDNS = msgspec.field(default=CoreDNS(), name="coreDNS")
    upstreams: tuple[str, ...] = ()
    allowed_clients: tuple[str, ...] = ()
    translate_all: bool = False
    allow_ipv4_clients: bool = msgspec.field(default=False, name="allowIPv4Clients")
    exclude_aaaa: tuple[str, ...] = msgspec.field(default=("::ffff:0:0/96",), name="excludeAAAA")
    exclude_a: tuple[str, ...] = ()
    exempt_zones: tuple[str, ...] = ("cluster.local",)
    mappings: tuple[Mapping, ...] = ()
    ptr: Ptr = Ptr.CNAME
    break_dnssec: bool = msgspec.field(default=True, name="breakDNSSEC")
    untranslated: Untranslated = Untranslated.PASSTHROUGH
    cache: Cache = Cache()
    log_queries: LogQueries = LogQueries.ERRORS


class Policy(Resource, frozen=True):
    """A DNS64Policy."""

    spec: PolicySpec

    @classmethod
    def parse(cls, obj: Object) -> Self:
        """Read an object. Raises InvalidObjectError where its spec has another shape."""
        try:
            spec = msgspec.convert(obj.get("spec") or {}, PolicySpec)
        except msgspec.ValidationError as error:
            raise InvalidObjectError(f"spec: {error}") from error
        return cls(Meta.of(obj), obj.get("status") or {}, KIND, spec)
