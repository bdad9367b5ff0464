"""The `forward` stanza, as CoreDNS has it, over plain DNS and TLS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import dns.exception
import dns.rcode

from nat64_dataplane.dns64.settings.stanza_line import Line
from nat64_dataplane.dns64.settings.typed_settings import Forward, Upstream

MAX_UPSTREAMS = 15
"""CoreDNS's limit."""

ReadFile = Callable[[str], str]
"""A path in, its text out; raises OSError. For upstreams given as /etc/resolv.conf."""

FORM = "forward FROM TO... { ... }"
OPTIONS = {
    "except": "except ZONE...",
    "force_tcp": "force_tcp",
    "prefer_udp": "prefer_udp",
    "expire": "expire DURATION",
    "max_age": "max_age DURATION",
    "max_idle_conns": "max_idle_conns INTEGER",
    "read_timeout": "read_timeout DURATION",
    "max_fails": "max_fails INTEGER",
    "max_connect_attempts": "max_connect_attempts INTEGER",
    "tls": "tls [CERT KEY] [CA]",
    "tls_servername": "tls_servername NAME",
    "policy": "policy random|round_robin|sequential",
    "health_check": "health_check DURATION [no_rec] [domain FQDN]",
    "max_concurrent": "max_concurrent MAX",
    "next": "next RCODE...",
    "next_on_nodata": "next_on_nodata",
    "failfast_all_unhealthy_upstreams": "failfast_all_unhealthy_upstreams",
    "failover": "failover RCODE...",
    "source_address": "source_address IP",
}
_FLAGS = {
    "force_tcp": "force_tcp",
    "prefer_udp": "prefer_udp",
    "next_on_nodata": "next_on_nodata",
    "failfast_all_unhealthy_upstreams": "failfast",
}
_NUMBERS = {
    "max_idle_conns": "max_idle_conns",
    "max_fails": "max_fails",
    "max_connect_attempts": "max_connect_attempts",
    "max_concurrent": "max_concurrent",
}


def read(line: Line, read_file: ReadFile) -> Forward:
    """Read the stanza. Raises CorefileError."""
    line.expect(2, 1 + 4 * MAX_UPSTREAMS, body=True)
    result = Forward(line.zone(line.values[0]), ())
    for option in line.options(OPTIONS):
        result = _option(option, result)
    upstreams: list[Upstream] = []
    for text in line.values[1:]:
        found = [_upstream(line, text)] if "://" in text or "/" not in text else None
        upstreams += found if found is not None else _resolv_conf(line, text, read_file)
    unique = tuple(dict.fromkeys(upstreams))
    if not 1 <= len(unique) <= MAX_UPSTREAMS:
        raise line.error(f"{len(unique)} upstreams: from 1 to {MAX_UPSTREAMS} are allowed")
    if result.tls_server_name and any(upstream.server_name for upstream in unique):
        raise line.error("a server name is given both by tls_servername and after %")
    if result.max_age and result.max_age < result.expire:
        raise line.error("max_age must not be less than expire")
    return replace(result, upstreams=unique)


def _option(option: Line, result: Forward) -> Forward:
    name = option.name
    if name in _FLAGS:
        return replace(result, **{_FLAGS[name]: option.flag()})  # type: ignore[arg-type]
    if name in _NUMBERS:
        number = option.integer(option.one(), 0, 2**31 - 1)
        return replace(result, **{_NUMBERS[name]: number})  # type: ignore[arg-type]
    match name:
        case "except":
            option.expect(1, 256)
            return replace(result, excepted=result.excepted + option.zones(option.values))
        case "expire":
            return replace(result, expire=option.seconds(option.one()))
        case "max_age":
            return replace(result, max_age=option.seconds(option.one()))
        case "read_timeout":
            return replace(result, read_timeout=option.seconds(option.one(), least=0.001))
        case "policy":
            allowed = ("random", "round_robin", "sequential")
            return replace(result, policy=option.choice(option.one(), allowed))
        case "tls":
            return _tls(option, result)
        case "tls_servername":
            return replace(result, tls_server_name=option.one())
        case "health_check":
            return _health_check(option, result)
        case "next":
            return replace(result, next_rcodes=_rcodes(option))
        case "failover":
            rcodes = _rcodes(option)
            if 0 in rcodes:
                raise option.error("NOERROR can't be a reason to try another upstream")
            return replace(result, failover=rcodes)
        case _:
            return replace(result, source_address=str(option.address(option.one())))


def _tls(option: Line, result: Forward) -> Forward:
    option.expect(0, 3)
    words = option.values
    cert, key = (words[0], words[1]) if len(words) > 1 else ("", "")
    ca = words[-1] if len(words) in (1, 3) else ""
    return replace(result, tls_cert=cert, tls_key=key, tls_ca=ca)


def _health_check(option: Line, result: Forward) -> Forward:
    option.expect(1, 4)
    words = list(option.values)
    # a zero interval would be a busy loop of probes
    result = replace(result, health_interval=option.seconds(words.pop(0), least=0.01))
    while words:
        word = option.choice(words.pop(0), ("no_rec", "domain"))
        if word == "no_rec":
            result = replace(result, health_recursion=False)
        elif words:
            result = replace(result, health_domain=option.zone(words.pop(0)))
        else:
            raise option.error("domain needs a name after it")
    return result


def _rcodes(option: Line) -> frozenset[int]:
    option.expect(1, 32)
    found = set()
    for word in option.values:
        try:
            found.add(int(dns.rcode.from_text(word)))
        except (dns.exception.DNSException, ValueError):
            raise option.error(f"{word!r} is not an RCODE: write it as in SERVFAIL") from None
    return frozenset(found)


def _upstream(line: Line, text: str) -> Upstream:
    transport, scheme, rest = text.partition("://")
    if not scheme:
        transport, rest = "dns", text
    line.choice(transport, ("dns", "tls"))
    host, server_name, port_text = rest, "", ""
    if "%" in rest and transport == "tls":
        host, _, tail = rest.partition("%")
        server_name, _, port_text = tail.partition(":")
        if host.startswith("[") and server_name.endswith("]"):
            host, server_name = host + "]", server_name[:-1]
        if not server_name:
            raise line.error(f"{text!r} has no server name after %")
    elif rest.startswith("["):
        host, _, port_text = rest.partition("]")
        if port_text and not port_text.startswith(":"):
            raise line.error(f"{text!r} is not an upstream: write it as in [2001:db8::53]:53")
        host, port_text = host + "]", port_text[1:]
    elif rest.count(":") == 1:
        host, _, port_text = rest.partition(":")
    address = line.address(host)
    default = 853 if transport == "tls" else 53
    port = line.integer(port_text, 1, 65535) if port_text else default
    return Upstream(str(address), port, transport, server_name)


def _resolv_conf(line: Line, path: str, read_file: ReadFile) -> list[Upstream]:
    try:
        text = read_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise line.error(f"{path} can't be read: {error}") from None
    found = []
    for row in text.splitlines():
        words = row.split()
        if len(words) >= 2 and words[0] == "nameserver":
            found.append(Upstream(str(line.address(words[1]))))
    if not found:
        raise line.error(f"{path} names no server: it needs a line `nameserver ADDRESS`")
    return found
