"""The smaller stanzas: acl, bind, errors, health, log, prometheus, ready, reload."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import dns.exception
import dns.rdatatype

from nat64_dataplane.dns64.settings.stanza_line import Line
from nat64_dataplane.dns64.settings.typed_settings import (
    Acl,
    AclRule,
    Consolidate,
    Listen,
    LogRule,
    Reload,
)

ACL_ACTIONS = ("allow", "block", "filter", "drop")
COMMON_LOG = (
    '{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" '
    "{rcode} {>rflags} {rsize} {duration}"
)
COMBINED_LOG = COMMON_LOG + ' "{>opcode}"'
LOG_CLASSES = ("all", "denial", "error", "success")

FORMS = {
    "acl": "acl [ZONES...] { allow|block|filter|drop [type QTYPE...] [net SOURCE...] }",
    "bind": "bind ADDRESS...",
    "errors": "errors { ... }",
    "health": "health [ADDRESS] { lameduck DURATION }",
    "log": "log [NAMES...] [FORMAT] { class all|denial|error|success... }",
    "loop": "loop",
    "prometheus": "prometheus [ADDRESS]",
    "ready": "ready [ADDRESS] { monitor until-ready|continuously }",
    "reload": "reload [INTERVAL] [JITTER]",
}


def read_acl(line: Line, zones: tuple[str, ...]) -> Acl:
    """Read `acl`; `zones` are the server block's."""
    line.expect(0, 256, body=True)
    form = "[type QTYPE...] [net SOURCE...]"
    forms = {action: f"{action} {form}" for action in ACL_ACTIONS}
    rules = tuple(_acl_rule(option) for option in line.options(forms))
    return Acl(line.zones(line.values) or zones, rules)


def _acl_rule(option: Line) -> AclRule:
    option.expect(0, 4096)
    types: set[int] = set()
    networks: list[IPv4Network | IPv6Network] = []
    every: set[str] = set()
    section, filled = "", True
    for word in option.values:
        if word in ("type", "net"):
            if not filled:
                break
            section, filled = word, False
            continue
        filled = True
        if not section:
            raise option.error(f"{word!r} is not allowed here: write `{option.form}`")
        if word == "*":
            every.add(section)
        elif section == "net":
            networks.append(option.range(word))
        else:
            types.add(_rdatatype(option, word))
    if not filled:
        raise option.error(f"{section} has nothing after it: write `{option.form}`")
    return AclRule(
        option.name,
        frozenset() if "type" in every else frozenset(types),
        () if "net" in every else tuple(networks),
    )


def _rdatatype(option: Line, word: str) -> int:
    try:
        return int(dns.rdatatype.from_text(word))
    except (dns.exception.DNSException, ValueError):
        raise option.error(f"{word!r} is not a query type: write it as in AAAA") from None


def read_bind(line: Line) -> list[IPv4Address | IPv6Address]:
    """Read `bind`: addresses only, since interfaces may change under a running server."""
    line.expect(1, 64)
    return [line.address(word) for word in line.values]


def read_errors(line: Line) -> tuple[Consolidate, ...]:
    """Read `errors`; gives what is to be consolidated."""
    line.expect(0, body=True)
    forms = {
        "stacktrace": "stacktrace",
        "consolidate": "consolidate DURATION REGEXP [LEVEL] [show_first]",
    }
    found = []
    for option in line.options(forms):
        if option.name == "stacktrace":
            option.flag()
            continue
        option.expect(2, 4)
        duration, pattern, *rest = option.values
        show_first = bool(rest) and rest[-1] == "show_first"
        levels = rest[:-1] if show_first else rest
        level = (
            option.choice(levels[0], ("warning", "error", "info", "debug")) if levels else "error"
        )
        if len(levels) > 1 or len(pattern) > 10_000:
            raise option.error(f"doesn't fit: write `{option.form}`")
        try:
            re.compile(pattern)
        except re.error as error:
            raise option.error(f"{pattern!r} is not a regular expression ({error})") from None
        found.append(Consolidate(option.seconds(duration, least=0.001), pattern, level, show_first))
    return tuple(found)


def read_log(line: Line) -> list[LogRule]:
    """Read `log`."""
    line.expect(0, 256, body=True)
    words = list(line.values)
    written = COMMON_LOG
    if len(words) > 1 and "{" in words[-1]:
        written = words.pop().replace("{common}", COMMON_LOG).replace("{combined}", COMBINED_LOG)
    classes: set[str] = set()
    for option in line.options({"class": "class all|denial|error|success..."}):
        option.expect(1, 16)
        classes |= {option.choice(word, LOG_CLASSES) for word in option.values}
    chosen = frozenset() if "all" in classes else frozenset(classes)
    return [LogRule(zone, written, chosen) for zone in line.zones(words) or (".",)]


def read_health(line: Line) -> tuple[Listen, float]:
    """Read `health`; gives its address and the lameduck time in seconds."""
    listen = Listen(*line.listen("", 8080))
    lameduck = 0.0
    for option in line.options({"lameduck": "lameduck DURATION"}):
        lameduck = option.seconds(option.one(), most=3600.0)
    return listen, lameduck


def read_ready(line: Line) -> Listen:
    """Read `ready`. Readiness here is always watched, so both monitor modes are the same."""
    listen = Listen(*line.listen("", 8181))
    for option in line.options({"monitor": "monitor until-ready|continuously"}):
        option.choice(option.one(), ("until-ready", "continuously"))
    return listen


def read_prometheus(line: Line) -> tuple[Listen, bool]:
    """Read `prometheus`; gives its address, and whether runtime metrics are asked for."""
    options = line.options({"runtime_metrics": "runtime_metrics"})
    runtime = [option.flag() for option in options]
    return Listen(*line.listen("localhost", 9153)), any(runtime)


def read_reload(line: Line) -> Reload:
    """Read `reload` with CoreDNS's minima: 2s between looks, jitter 0 or from 1s."""
    line.expect(0, 2)
    interval = line.seconds(line.values[0], least=2.0) if line.values else Reload().interval
    jitter = line.seconds(line.values[1]) if len(line.values) > 1 else Reload().jitter
    if 0 < jitter < 1:
        raise line.error(f"{line.values[1]!r} is no jitter: write 0s, or 1s and more")
    return Reload(interval, min(jitter, interval / 2))
