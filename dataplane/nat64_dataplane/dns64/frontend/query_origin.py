"""Where a query came from, and how its response is counted and logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nat64_dataplane.dns64.access.client_acl import Client
from nat64_dataplane.dns64.instrumentation.counters import Counters
from nat64_dataplane.dns64.instrumentation.query_log import Event
from nat64_dataplane.dns64.message import wire
from nat64_dataplane.dns64.message.wire import Query

Send = Callable[[bytes | None], None]
"""Sends a response; None if there is none to send."""


class QueryOrigin(NamedTuple):
    """Where a query came from, and how to answer it."""

    client: Client
    port: int
    proto: str
    size: int
    started: float
    local: str
    send: Send


def count_response(
    stats: Counters,
    query: Query,
    origin: QueryOrigin,
    response: bytes,
    seconds: float,
    *,
    synthesized: bool,
) -> None:
    """Count a response that was sent."""
    stats.seconds.observe(seconds)
    stats.count(
        (
            stats.zone_of(query.name),
            origin.proto,
            origin.client.family,
            query.type,
            query.edns is not None and query.edns.do,
            response[3] & wire.RCODE_MASK,
            synthesized,
            origin.size,
            len(response),
        )
    )


def log_event(
    query: Query, origin: QueryOrigin, response: bytes, kind: str, seconds: float
) -> Event:
    """The entry for the query log."""
    return Event(
        query,
        origin.client.text,
        origin.port,
        origin.proto,
        origin.size,
        response,
        kind,
        seconds,
        origin.local,
    )
