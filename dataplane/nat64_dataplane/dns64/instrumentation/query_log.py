"""The query log in CoreDNS's formats, and the error log: errors one by one, or counted."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass

import dns.rcode
import dns.rdataclass
import dns.rdatatype

from nat64_dataplane.dns64.message import domain_names, wire
from nat64_dataplane.dns64.message.domain_names import Zones
from nat64_dataplane.dns64.message.wire import Query
from nat64_dataplane.dns64.settings import LogRule
from nat64_dataplane.dns64.settings.typed_settings import Consolidate

logger = logging.getLogger("nat64_dns64")

_PLACEHOLDER = re.compile(r"\{(/?[>\w/-]+)\}")
_FLAGS = ((wire.QR, "qr"), (wire.AA, "aa"), (wire.TC, "tc"), (wire.RD, "rd"), (wire.RA, "ra"))
_MORE_FLAGS = ((wire.AD, "ad"), (wire.CD, "cd"))


@dataclass(frozen=True, slots=True)
class Event:
    """A query with its response and how it came about."""

    query: Query
    remote: str
    """The client's address as CoreDNS logs it."""
    port: int
    proto: str
    size: int
    response: bytes
    kind: str
    seconds: float
    local: str


class QueryLog:
    """The `log` stanzas of one server block."""

    def __init__(self, rules: tuple[LogRule, ...]) -> None:
        self._rules = [(Zones((rule.zone,)), rule.format, rule.classes) for rule in rules]
        self.wants_hits = any(not c or c & {"success", "denial"} for _, _, c in self._rules)
        """Whether responses from the cache may have to be logged."""

    def __bool__(self) -> bool:
        return bool(self._rules)

    def write(self, event: Event) -> None:
        """Log a query, by the first stanza that is for its name."""
        for zones, form, classes in self._rules:
            if event.query.name in zones:
                if not classes or event.kind in classes:
                    logger.info("%s", format_line(form, event))
                return


def format_line(form: str, event: Event) -> str:
    """Fill in a format; what has no value is `-`, as CoreDNS writes it."""
    return _PLACEHOLDER.sub(lambda match: _value(match[1], event), form)


def _value(name: str, event: Event) -> str:
    query = event.query
    flags = int.from_bytes(event.response[2:4], "big")
    match name:
        case "type":
            return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(query.type))
        case "class":
            return dns.rdataclass.to_text(dns.rdataclass.RdataClass.make(query.rdclass))
        case "name":
            return domain_names.to_text(query.name)
        case "proto":
            return event.proto
        case "remote":
            return event.remote
        case "local":
            return event.local
        case "size":
            return str(event.size)
        case "port":
            return str(event.port)
        case "duration":
            return f"{event.seconds:.9f}s"
        case "rcode":
            return dns.rcode.to_text(dns.rcode.Rcode.make(flags & wire.RCODE_MASK))
        case "rsize":
            return str(len(event.response))
        case ">rflags":
            return ",".join(text for bit, text in _FLAGS + _MORE_FLAGS if flags & bit)
        case ">bufsize":
            return str(query.edns.size if query.edns else 512)
        case ">do":
            return str(query.do).lower()
        case ">id":
            return str(query.id)
        case ">opcode":
            return str(query.opcode)
    return "-"


class ErrorLog:
    """The `errors` stanza: failures by name and type, like ones counted where asked for."""

    def __init__(self, rules: tuple[Consolidate, ...], *, enabled: bool) -> None:
        self._enabled = enabled
        self._rules = [(rule, re.compile(rule.pattern)) for rule in rules]
        self._counts: dict[str, int] = {}

    def write(self, query: Query, reason: str) -> None:
        """Log why a query failed."""
        if not self._enabled:
            return
        rdtype = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(query.type))
        message = f"{domain_names.to_text(query.name)} {rdtype}: {reason}"
        for rule, pattern in self._rules:
            if pattern.search(reason):
                self._count(rule, message)
                return
        logger.error("plugin/errors: 2 %s", message)

    def _count(self, rule: Consolidate, message: str) -> None:
        count = self._counts.get(rule.pattern, 0)
        self._counts[rule.pattern] = count + 1
        if count:
            return
        if rule.show_first:
            logger.log(_LEVELS[rule.level], "plugin/errors: 2 %s", message)
        asyncio.get_running_loop().call_later(rule.duration, self._tell, rule)

    def _tell(self, rule: Consolidate) -> None:
        count = self._counts.pop(rule.pattern, 0)
        if count > (1 if rule.show_first else 0):
            logger.log(
                _LEVELS[rule.level],
                "plugin/errors: %d errors like '%s' occurred in last %gs",
                count,
                rule.pattern,
                rule.duration,
            )


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
