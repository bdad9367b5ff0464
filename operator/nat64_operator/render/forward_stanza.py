"""The `forward` stanzas of the sidecar's Corefile: zones, their upstreams, and options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from nat64_dataplane import corefile
from nat64_dataplane.dns64 import settings
from nat64_operator.api.policy import (
    NODE_RESOLVERS,
    Forward,
    ForwardPolicy,
    HealthCheck,
    PolicySpec,
    Zone,
    words,
)

MAX_UPSTREAMS = 15
MAX_BESIDE_NODE_RESOLVERS = 12
"""A resolv.conf stands for up to 3 (resolv.conf(5))."""
TLS = "tls://"


def stanzas(
    policy: PolicySpec, upstreams: Sequence[str], forward: Forward | None = None
) -> Iterator[str]:
    """All stanzas, the longest zone first, because the sidecar takes the first that matches.

    `forward` is how `upstreams` are asked, if it differs from how the policy's zones are asked.
    """
    for zone in sorted(policy.zones, key=lambda z: -z.name.rstrip(".").count(".")):
        yield _stanza(zone.name, words(zone.upstreams), policy.forward, _passing_on(zone))
    yield _stanza(".", askable(upstreams) or (NODE_RESOLVERS,), forward or policy.forward)


def askable(upstreams: Iterable[str]) -> tuple[str, ...]:
    """The upstreams that a sidecar can ask. CoreDNS may have others: DNS over HTTPS, host names,
    files in its own pod.
    """
    found = [upstream for upstream in dict.fromkeys(upstreams) if is_askable(upstream)]
    most = MAX_BESIDE_NODE_RESOLVERS if NODE_RESOLVERS in found else MAX_UPSTREAMS
    return tuple(found[:most])


def named(upstream: str, server_name: str) -> str:
    """The upstream with the name that its certificate must have, if it uses TLS and has none."""
    if not server_name or not upstream.startswith(TLS) or "%" in upstream:
        return upstream
    rest = upstream.removeprefix(TLS)
    if rest.startswith("["):
        address, _, port = rest[1:].partition("]")
        return f"{TLS}[{address}%{server_name}]{port}"
    if rest.count(":") > 1:
        return f"{TLS}[{rest}%{server_name}]"
    address, colon, port = rest.partition(":")
    return f"{TLS}{address}%{server_name}{colon}{port}"


@lru_cache(maxsize=256)
def is_askable(upstream: str) -> bool:
    """Whether a sidecar can ask it."""
    if upstream == NODE_RESOLVERS:
        return True
    try:
        text = corefile.render(".", [], [corefile.render("forward", [".", upstream])])
        settings.from_text(text, read_file=_no_file)
    except (corefile.CorefileError, ValueError):
        return False
    return True


def _no_file(path: str) -> str:
    raise FileNotFoundError(path)


def _stanza(zone: str, upstreams: Iterable[str], forward: Forward, more: Iterable[str] = ()) -> str:
    return corefile.render("forward", [zone, *upstreams], [*_options(forward), *more])


def _passing_on(zone: Zone) -> Iterator[str]:
    rcodes = [rcode for rcode in zone.pass_on if rcode != "NODATA"]
    if rcodes:
        yield corefile.render("next", rcodes)
    if len(rcodes) < len(zone.pass_on):
        yield "next_on_nodata"


def _options(forward: Forward) -> Iterator[str]:
    """The options that differ from the sidecar's defaults, and the policy."""
    yield f"policy {(forward.policy or ForwardPolicy.SEQUENTIAL).name.lower()}"
    if forward.health_check != HealthCheck():
        yield _health_check(forward.health_check)
    default = Forward()
    for option, value, usual in (
        ("max_fails", forward.max_fails, default.max_fails),
        ("max_connect_attempts", forward.max_connect_attempts, default.max_connect_attempts),
        ("max_concurrent", forward.max_concurrent, default.max_concurrent),
    ):
        if value != usual:
            yield f"{option} {value}"
    if forward.read_timeout_milliseconds != default.read_timeout_milliseconds:
        yield f"read_timeout {forward.read_timeout_milliseconds}ms"
    if forward.expire_seconds != default.expire_seconds:
        yield f"expire {forward.expire_seconds}s"
    if forward.max_age_seconds:
        yield f"max_age {forward.max_age_seconds}s"
    if forward.force_tcp:
        yield "force_tcp"
    if forward.fail_fast:
        yield "failfast_all_unhealthy_upstreams"
    if forward.failover:
        yield corefile.render("failover", forward.failover)


def _health_check(check: HealthCheck) -> str:
    words = [f"{check.interval_milliseconds}ms"]
    words += [] if check.recursion_desired else ["no_rec"]
    words += [] if check.domain == "." else ["domain", check.domain]
    return corefile.render("health_check", words)
