"""The sidecar's Corefile. If a gateway has no policy, the policy's defaults apply: such a sidecar
answers correctly for the cluster's own clients, and CoreDNS doesn't ask it yet. So when a policy
comes or goes, a mounted file changes and no translator restarts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any

from nat64_dataplane import config, corefile
from nat64_operator.api.host_ports import Ports
from nat64_operator.api.policy import (
    Cache,
    Forward,
    Log,
    LogQueries,
    PolicySpec,
    Ptr,
    ServeStale,
    StaleMode,
    Untranslated,
)
from nat64_operator.render import forward_stanza, names
from nat64_operator.render.containers import RUN_DIR
from nat64_operator.render.manifest import config_map
from nat64_operator.settings import Settings

ALWAYS_ALLOWED = ("::1/128", "127.0.0.0/8")
# CoreDNS needs a few seconds to see that a sidecar is unready and to ask another.
LAMEDUCK = "10s"


def sidecar_config(gateway: str, text: str, settings: Settings) -> dict[str, Any]:
    """The mutable ConfigMap: the sidecar reloads it in place."""
    return config_map(
        names.sidecar_config(gateway, settings.dataplane_image),
        settings.namespace,
        names.labels(gateway),
        {names.COREFILE: text},
    )


def render_corefile(
    translator: config.Config,
    ports: Ports,
    policy: PolicySpec,
    upstreams: Sequence[str],
    forward: Forward | None = None,
) -> str:
    """Write the Corefile of every sidecar of a gateway. `forward` is how `upstreams` are asked, if
    they are CoreDNS's and have options of their own.
    """
    stanzas = [
        corefile.render("bind", ["::"]),
        _errors(policy.log),
        *_log(policy),
        corefile.render("health", [f":{ports.dns_health}"], [f"lameduck {LAMEDUCK}"]),
        corefile.render("ready", [f":{ports.dns_ready}"]),
        corefile.render("prometheus", [f":{ports.dns_metrics}"]),
        corefile.render("reload", ["5s", "1s"]),
        *_acl(policy),
        corefile.render("import", [names.CLIENTS_FILE]),
        corefile.render("cache", body=_cache(policy.cache)),
        corefile.render("dns64", body=_dns64(translator, policy)),
        *forward_stanza.stanzas(policy, upstreams, forward),
        corefile.render("loop"),
    ]
    body = "\n".join(stanzas).replace("\n", f"\n{corefile.edit.INDENT}")
    return f".:{ports.dns} {{\n{corefile.edit.INDENT}{body}\n}}\n"


def clients_config(ranges: Iterable[str], settings: Settings) -> dict[str, Any]:
    """The ConfigMap with the ranges of the cluster's own clients. All others get no reply: CoreDNS
    passes a REFUSED on to its own clients, but asks the next upstream if no reply comes. So a pod
    of CoreDNS whose address is not here yet costs its clients some seconds, and no names.
    """
    lines = [*(f"allow net {net}" for net in allowed([*ranges, *ALWAYS_ALLOWED])), "drop"]
    return config_map(
        names.CLIENTS,
        settings.namespace,
        names.common_labels(),
        {names.CLIENTS_FILE: corefile.render("acl", body=lines) + "\n"},
    )


def _acl(policy: PolicySpec) -> list[str]:
    # The first matching rule decides, so denied clients come first.
    body = [f"block net {net}" for net in allowed(policy.denied_clients)]
    body += [f"allow net {net}" for net in allowed(policy.allowed_clients)]
    return [corefile.render("acl", body=body)] if body else []


def allowed(ranges: Iterable[str]) -> tuple[str, ...]:
    """The ranges, merged, IPv6 first: the file is the same for any order of the nodes."""
    return _collapsed(frozenset(ranges))


@lru_cache(maxsize=32)
def _collapsed(ranges: frozenset[str]) -> tuple[str, ...]:
    # Cached, because there may be ten thousand of them and they change seldom.
    networks = [ip_network(text, strict=False) for text in ranges]
    six = collapse_addresses(n for n in networks if isinstance(n, IPv6Network))
    four = collapse_addresses(n for n in networks if isinstance(n, IPv4Network))
    return (*map(str, six), *map(str, four))


def _errors(log: Log) -> str:
    if not log.consolidate_errors_seconds:
        return corefile.render("errors")
    line = f"consolidate {log.consolidate_errors_seconds}s .* error show_first"
    return corefile.render("errors", body=[line])


def _log(policy: PolicySpec) -> list[str]:
    classes = [kind.value.lower() for kind in policy.log.classes]
    if policy.log_queries is LogQueries.ALL:
        classes = ["all"]
    elif policy.log_queries is LogQueries.ERRORS:
        classes.append("error")
    if not classes:
        return []
    words = [*(policy.log.names or ["."]), f"{{{policy.log.format.value.lower()}}}"]
    line = corefile.render("class", sorted(set(classes)))
    return [corefile.render("log", words, [line])]


def _cache(cache: Cache) -> Iterator[str]:
    most, least = cache.max_ttl_seconds, cache.min_ttl_seconds
    yield f"success {cache.success_entries} {most} {least}"
    most, least = cache.denial_max_ttl_seconds or most, cache.denial_min_ttl_seconds
    yield f"denial {cache.denial_entries} {most} {least}"
    yield f"servfail {cache.servfail_seconds}s"
    if cache.keep_ttl:
        yield "keepttl"
    if cache.prefetch.queries:
        prefetch = cache.prefetch
        yield f"prefetch {prefetch.queries} {prefetch.within_seconds}s {prefetch.percent}%"
    if cache.serve_stale.max_seconds:
        yield from _serve_stale(cache.serve_stale)
    for kind, zones in (("success", cache.disable.success), ("denial", cache.disable.denial)):
        if zones:
            yield corefile.render("disable", [kind, *zones])


def _serve_stale(stale: ServeStale) -> Iterator[str]:
    words = [f"{stale.max_seconds}s", stale.mode.value.lower()]
    if stale.mode is StaleMode.VERIFY:
        words.append(f"{stale.verify_timeout_milliseconds}ms")
    yield corefile.render(
        "serve_stale", [*words, f"{stale.ttl_seconds}s", f"{stale.recheck_seconds}s"]
    )
    if stale.prefer_positive:
        yield "serve_stale_policy prefer_positive"


def _dns64(translator: config.Config, policy: PolicySpec) -> list[str]:
    lines = [f"prefix {translator.prefix}"]
    if policy.translate_all:
        lines.append("translate_all")
    if policy.allow_ipv4_clients:
        lines.append("allow_ipv4")
    lines.append(f"exclude_aaaa {' '.join(policy.exclude_aaaa) or 'none'}")
    if policy.exclude_a:
        lines.append(f"exclude_a {' '.join(policy.exclude_a)}")
    # One for each range: an object that was stored before the API server saw to that may have two.
    for mapping in {mapping.range: mapping for mapping in policy.mappings}.values():
        prefixes = dict.fromkeys([mapping.prefix, *mapping.additional_prefixes])
        lines.append(corefile.render("map", [mapping.range, *prefixes]))
    if policy.exempt_zones:
        lines.append(f"exempt {' '.join(policy.exempt_zones)}")
    name = f" {policy.ptr_name}" if policy.ptr is Ptr.LOCAL else ""
    how = "off" if policy.ptr is Ptr.UPSTREAM else policy.ptr.value.lower()
    lines.append(f"ptr {how}{name}")
    lines.append(f"break_dnssec {'on' if policy.break_dnssec else 'off'}")
    # An address that the translator refuses must not be handed out (RFC 6052 section 3.1).
    lines.append(f"special_use {'allow' if translator.policy.allow_non_global else 'filter'}")
    failing = " servfail" if policy.untranslated is Untranslated.SERVFAIL else ""
    lines.append(f"translator {RUN_DIR}/{translator.name}/status.json{failing}")
    return lines
