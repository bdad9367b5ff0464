"""Metrics, with CoreDNS's names if CoreDNS has them, and `nat64_dns64_*` beside them.

Other modules count; this one only names the counts, at the time of the scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import dns.rcode
import dns.rdatatype
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from nat64_dataplane.dns64.frontend.server_block import ServerBlock
from nat64_dataplane.dns64.instrumentation.counters import (
    SIZES,
    Histogram,
    UpstreamExchanges,
)
from nat64_dataplane.dns64.instrumentation.internal_faults import faults
from nat64_dataplane.dns64.settings import Settings
from nat64_dataplane.dns64.synthesis.rfc6147 import Rule

_TYPES = frozenset(
    ("A", "AAAA", "MX", "SOA", "CNAME", "PTR", "TXT", "NS", "SRV", "DS", "DNSKEY", "RRSIG", "NSEC",
     "NSEC3", "HTTPS", "IXFR", "AXFR", "ANY")
)  # fmt: skip
_SERVER = ("server", "zone", "view")


class Sidecar(Protocol):
    """What the metrics show about the running program."""

    blocks: list[ServerBlock]
    exchanges: UpstreamExchanges
    settings: Settings
    reload_failures: int

    def unready(self) -> list[str]:
        """Why /ready isn't OK; empty when it is."""


class DnsCollector(Collector):
    """Turns a running sidecar's counts into metrics."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def collect(self) -> Iterator[Metric]:
        """Give every metric."""
        blocks = self._sidecar.blocks
        yield from _served(blocks)
        yield from _cache(blocks)
        yield from _dns64(blocks)
        yield from self._forward()
        yield from self._process()

    def _forward(self) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            "coredns_proxy_request_duration_seconds",
            "Histogram of the time each request took.",
            labels=("proxy_name", "to", "rcode"),
        )
        for (upstream, rcode), histogram in self._sidecar.exchanges.seconds.items():
            text = "" if rcode is None else rcode_text(rcode)
            _add(seconds, ("forward", upstream, text), histogram)
        yield seconds
        failures = _counter(
            "coredns_proxy_healthcheck_failures", "Failed health checks.", "proxy_name", "to"
        )
        down = GaugeMetricFamily(
            "nat64_dns64_upstream_down", "Whether an upstream counts as down.", labels=("to",)
        )
        reused = _counter("coredns_proxy_conn_cache_hits", "Reused.", "proxy_name", "to", "proto")
        opened = _counter("coredns_proxy_conn_cache_misses", "Opened.", "proxy_name", "to", "proto")
        strays = _counter("nat64_dns64_stray_replies", "Messages that were no reply.", "to")
        totals: Counter[str] = Counter()
        for block in self._sidecar.blocks:
            for group in block.groups:
                totals["rejected"] += group.rejected
                totals["broken"] += group.all_down
                for server in group.servers:
                    label = server.label
                    failures.add_metric(("forward", label), server.failed_probes)
                    down.add_metric((label,), server.down)
                    proto = "tcp-tls" if server.upstream.transport == "tls" else "tcp"
                    reused.add_metric(("forward", label, proto), server.streams.reused)
                    opened.add_metric(("forward", label, proto), server.streams.opened)
                    strays.add_metric((label,), server.datagrams.strays)
        yield from (failures, down, strays, reused, opened)
        rejects = _counter("coredns_forward_max_concurrent_rejects", "Queries over the limit.")
        rejects.add_metric((), totals["rejected"])
        yield rejects
        broken = _counter("coredns_forward_healthcheck_broken", "All upstreams were down.")
        broken.add_metric((), totals["broken"])
        yield broken

    def _process(self) -> Iterator[Metric]:
        sidecar = self._sidecar
        version = GaugeMetricFamily(
            "coredns_reload_version_info", "The running Corefile.", labels=("hash", "value")
        )
        version.add_metric(("sha512", sidecar.settings.content_hash), 1)
        yield version
        failed = _counter("coredns_reload_failed", "Corefiles that were refused.")
        failed.add_metric((), sidecar.reload_failures)
        yield failed
        panics = _counter("coredns_panics", "Faults while a query was resolved.")
        panics.add_metric((), faults.total)
        yield panics
        enabled = GaugeMetricFamily(
            "nat64_dns64_synthesis_enabled", "1 where the translator is programmed.",
            labels=("server", "reason"),
        )  # fmt: skip
        for block in sidecar.blocks:
            if block.settings.dns64 is not None:
                status = block.coupling.watch.status
                enabled.add_metric((block.settings.label, status.reason), status.programmed)
        yield enabled
        plugins = GaugeMetricFamily(
            "coredns_plugin_enabled", "Stanzas in use.", labels=(*_SERVER, "name")
        )
        for block in sidecar.blocks:
            for zone in block.settings.zones:
                for name in block.settings.stanzas:
                    plugins.add_metric((block.settings.label, zone, "", name), 1)
        yield plugins
        ready = GaugeMetricFamily("nat64_dns64_ready", "Whether /ready answers OK.")
        ready.add_metric((), not sidecar.unready())
        yield ready


def _served(blocks: list[ServerBlock]) -> Iterator[Metric]:
    requests = _counter(
        "coredns_dns_requests", "DNS requests.", *_SERVER, "proto", "family", "type"
    )
    responses = _counter("coredns_dns_responses", "DNS responses.", *_SERVER, "rcode", "plugin")
    do = _counter("coredns_dns_do_requests", "Requests with DO.", *_SERVER)
    translated = _counter("coredns_dns64_requests_translated", "Synthesized answers.", "server")
    seconds = HistogramMetricFamily(
        "coredns_dns_request_duration_seconds", "Time to answer.", labels=_SERVER
    )
    sizes = [
        HistogramMetricFamily(f"coredns_dns_{what}_size_bytes", "Size.", labels=(*_SERVER, "proto"))
        for what in ("request", "response")
    ]
    for block in blocks:
        label, zone = block.settings.label, block.settings.zones[0]
        by_type: Counter[tuple[str, ...]] = Counter()
        by_rcode: Counter[tuple[str, ...]] = Counter()
        with_do: Counter[tuple[str, ...]] = Counter()
        by_size: dict[tuple[int, str, str], Histogram] = {}
        total = 0
        for served, count in block.stats.responses().items():
            server = (label, served.zone, "")
            family, rdtype = str(served.family), type_text(served.type)
            by_type[*server, served.proto, family, rdtype] += count
            by_rcode[*server, rcode_text(served.rcode), ""] += count
            with_do[server] += count * served.do
            total += count * served.synthesized
            for index, size in enumerate((served.request, served.response)):
                key = (index, served.zone, served.proto)
                by_size.setdefault(key, Histogram(SIZES)).observe(size, count)
        for metric, counts in ((requests, by_type), (responses, by_rcode), (do, with_do)):
            for labels, value in counts.items():
                metric.add_metric(labels, value)
        for (index, served_zone, proto), histogram in by_size.items():
            _add(sizes[index], (label, served_zone, "", proto), histogram)
        _add(seconds, (label, zone, ""), block.stats.seconds)
        translated.add_metric((label,), total)
    yield from (requests, responses, do, translated, seconds, *sizes)


def _cache(blocks: list[ServerBlock]) -> Iterator[Metric]:
    labels = ("server", "zones", "view")
    hits = _counter("coredns_cache_hits", "Hits.", "server", "type", "zones", "view")
    misses = _counter("coredns_cache_misses", "Misses.", *labels)
    requests = _counter("coredns_cache_requests", "Requests.", *labels)
    stale = _counter("coredns_cache_served_stale", "Stale answers.", *labels)
    prefetch = _counter("coredns_cache_prefetch", "Prefetches.", *labels)
    evictions = _counter("coredns_cache_evictions", "Evictions.", "server", "type", "zones", "view")
    drops = _counter("coredns_cache_drops", "Replies to other questions.", *labels)
    entries = GaugeMetricFamily(
        "coredns_cache_entries", "Entries.", labels=("server", "type", "zones", "view")
    )
    for block in blocks:
        cache, stats = block.cache, block.stats
        if cache is None:
            continue
        server, zones = block.settings.label, ",".join(cache.settings.zones)
        by_kind = stats.hits()
        asked = stats.cache_requests + stats.hot_total()
        for kind, kinds in (("success", ("success",)), ("denial", ("denial", "error"))):
            hits.add_metric((server, kind, zones, ""), by_kind[kind])
            entries.add_metric((server, kind, zones, ""), sum(map(cache.entries, kinds)))
            evicted = sum(cache.evictions[each] for each in kinds)
            evictions.add_metric((server, kind, zones, ""), evicted)
        misses.add_metric((server, zones, ""), asked - sum(by_kind.values()))
        requests.add_metric((server, zones, ""), asked)
        stale.add_metric((server, zones, ""), stats.stale)
        prefetch.add_metric((server, zones, ""), stats.prefetches)
        strays = (s.datagrams.strays for group in block.groups for s in group.servers)
        drops.add_metric((server, zones, ""), sum(strays))
    yield from (hits, misses, requests, stale, prefetch, drops, evictions, entries)


def _dns64(blocks: list[ServerBlock]) -> Iterator[Metric]:
    rules = _counter("nat64_dns64_resolutions", "Questions by the rule.", "server", "rule")
    withheld = _counter("nat64_dns64_synthesis_withheld", "For want of a translator.", "server")
    malformed = _counter("nat64_dns64_malformed_queries", "No DNS query.", "server")
    limited = _counter("nat64_dns64_over_limit", "Over a limit on queries in flight.", "server")
    refused = _counter("nat64_dns64_tcp_connections_refused", "Over a limit on them.", "server")
    waiting = GaugeMetricFamily("nat64_dns64_under_way", "Waiting queries.", labels=("server",))
    acls = {
        action: _counter(f"coredns_acl_{word}_requests", f"Requests {word}.", *_SERVER)
        for action, word in (
            ("allow", "allowed"),
            ("block", "blocked"),
            ("filter", "filtered"),
            ("drop", "dropped"),
        )
    }
    for block in blocks:
        server, zone, stats = (
            block.settings.label,
            block.settings.zones[0],
            block.stats,
        )
        for rule in Rule:
            rules.add_metric((server, rule.name.lower()), stats.rules[rule])
        withheld.add_metric((server,), stats.withheld)
        malformed.add_metric((server,), stats.dropped)
        limited.add_metric((server,), stats.over_limit)
        refused.add_metric((server,), stats.refused_connections)
        waiting.add_metric((server,), block.under_way)
        for action, family in acls.items():
            hot = stats.hot_total() if action == "allow" else 0
            family.add_metric((server, zone, ""), stats.acl[action] + hot)
    yield from (rules, withheld, malformed, limited, refused, waiting, *acls.values())


def type_text(rdtype: int) -> str:
    """CoreDNS's `type` label."""
    text = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype))
    return text if text in _TYPES else "other"


def rcode_text(rcode: int) -> str:
    """An RCODE by name."""
    return dns.rcode.to_text(dns.rcode.Rcode.make(rcode))


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=labels)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    total, buckets = 0, []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else f"{bound:g}", total))
    family.add_metric(labels, buckets=buckets, sum_value=histogram.sum)
