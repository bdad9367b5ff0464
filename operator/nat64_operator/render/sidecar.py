"""The sidecar's Corefile. Where no policy speaks for a gateway, the policy's defaults do: such a
sidecar answers correctly for the cluster's own clients, and nothing points to it yet. So a policy
that comes or goes changes a mounted file and never restarts a translator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any

from nat64_dataplane import config, corefile
from nat64_operator.api.gateway import Ports
from nat64_operator.api.policy import LogQueries, PolicySpec, Untranslated
from nat64_operator.render import names
from nat64_operator.render.gateway import RUN_DIR
from nat64_operator.render.manifest import config_map
from nat64_operator.settings import Settings

NODE_RESOLVERS = "/etc/resolv.conf"
ALWAYS_ALLOWED = ("::1/128", "127.0.0.0/8")
# CoreDNS needs a few seconds to see that a sidecar is unready and to ask another.
LAMEDUCK = "10s"


def sidecar_config(gateway: str, text: str, settings: Settings) -> dict[str, Any]:
    """The mutable ConfigMap: the sidecar reloads it in place."""
    return config_map(
        names.sidecar_config(gateway),
        settings.namespace,
        names.labels(gateway),
        {names.COREFILE: text},
    )


def render_corefile(
    translator: config.Config,
    ports: Ports,
    policy: PolicySpec,
    upstreams: Sequence[str],
) -> str:
    """Write the Corefile of every sidecar of a gateway."""
    stanzas = [
        corefile.render("bind", ["::"]),
        corefile.render("errors"),
        *_log(policy.log_queries),
        corefile.render("health", [f":{ports.dns_health}"], [f"lameduck {LAMEDUCK}"]),
        corefile.render("ready", [f":{ports.dns_ready}"]),
        corefile.render("prometheus", [f":{ports.dns_metrics}"]),
        corefile.render("reload", ["5s", "1s"]),
        *_allow(policy.allowed_clients),
        corefile.render("import", [names.CLIENTS_FILE]),
        corefile.render(
            "cache",
            [str(policy.cache.max_ttl_seconds)],
            [
                f"success {policy.cache.success_entries}",
                f"denial {policy.cache.denial_entries}",
            ],
        ),
        corefile.render("dns64", body=_dns64(translator, policy)),
        corefile.render(
            "forward",
            [".", *(upstreams or [NODE_RESOLVERS])],
            ["policy sequential"],
        ),
        corefile.render("loop"),
    ]
    body = "\n".join(stanzas).replace("\n", f"\n{corefile.edit.INDENT}")
    return f".:{ports.dns} {{\n{corefile.edit.INDENT}{body}\n}}\n"


def clients_config(ranges: Iterable[str], settings: Settings) -> dict[str, Any]:
    """The ConfigMap that says who the cluster's own clients are, and refuses all others."""
    lines = [*(f"allow net {net}" for net in allowed([*ranges, *ALWAYS_ALLOWED])), "block"]
    return config_map(
        names.CLIENTS,
        settings.namespace,
        names.common_labels(),
        {names.CLIENTS_FILE: corefile.render("acl", body=lines) + "\n"},
    )


def _allow(ranges: Sequence[str]) -> list[str]:
    body = [f"allow net {net}" for net in allowed(ranges)]
    return [corefile.render("acl", body=body)] if body else []


def allowed(ranges: Iterable[str]) -> tuple[str, ...]:
    """The ranges as few as they can be, IPv6 first, so that the file is the same whatever order
    the nodes came in.
    """
    return _collapsed(frozenset(ranges))


@lru_cache(maxsize=32)
def _collapsed(ranges: frozenset[str]) -> tuple[str, ...]:
    # Remembered: there may be ten thousand of them, and they change seldom.
    networks = [ip_network(text, strict=False) for text in ranges]
    six = collapse_addresses(n for n in networks if isinstance(n, IPv6Network))
    four = collapse_addresses(n for n in networks if isinstance(n, IPv4Network))
    return (*map(str, six), *map(str, four))


def _log(queries: LogQueries) -> list[str]:
    if queries is LogQueries.NONE:
        return []
    if queries is LogQueries.ALL:
        return [corefile.render("log")]
    return [corefile.render("log", ["."], ["class error"])]


def _dns64(translator: config.Config, policy: PolicySpec) -> list[str]:
    lines = [f"prefix {translator.prefix}"]
    if policy.translate_all:
        lines.append("translate_all")
    if policy.allow_ipv4_clients:
        lines.append("allow_ipv4")
    lines.append(f"exclude_aaaa {' '.join(policy.exclude_aaaa) or 'none'}")
    if policy.exclude_a:
        lines.append(f"exclude_a {' '.join(policy.exclude_a)}")
    lines += [f"map {mapping.range} {mapping.prefix}" for mapping in policy.mappings]
    if policy.exempt_zones:
        lines.append(f"exempt {' '.join(policy.exempt_zones)}")
    lines.append(f"ptr {policy.ptr.value.lower()}")
    lines.append(f"break_dnssec {'on' if policy.break_dnssec else 'off'}")
    # What the translator refuses must not be handed out as an address (RFC 6052 section 3.1).
    lines.append(f"special_use {'allow' if translator.policy.allow_non_global else 'filter'}")
    failing = " servfail" if policy.untranslated is Untranslated.SERVFAIL else ""
    lines.append(f"translator {RUN_DIR}/{translator.name}/status.json{failing}")
    return lines
