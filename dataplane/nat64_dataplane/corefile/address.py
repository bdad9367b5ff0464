"""The keys of server blocks: `.`, `example.org:1053`, `dns://.:53`, `10.0.0.0/8`."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from nat64_dataplane.corefile.errors import CorefileError
from nat64_dataplane.corefile.lexer import Token

DEFAULT_PORTS = {"dns": 53, "tls": 853, "quic": 853, "grpc": 443, "https": 443, "https3": 443}
"""CoreDNS's transports with the port that each has when the key gives none."""


class Address(NamedTuple):
    """One zone that a server block serves, fully qualified and in lower case."""

    zone: str
    port: int = 53
    transport: str = "dns"

    def __str__(self) -> str:
        return f"{self.transport}://{self.zone}:{self.port}"


def parse_key(key: Token) -> tuple[Address, ...]:
    """Read one key; a reverse range gives one address for each zone that it covers.

    Raises CorefileError for an unknown transport, a port outside 1-65535, or a bad name.
    """
    transport, scheme, rest = key.text.partition("://")
    if not scheme:
        transport, rest = "dns", key.text
    if transport not in DEFAULT_PORTS:
        raise CorefileError(
            key.file,
            key.line,
            f"{key.text!r} has the unknown transport {transport!r}: "
            f"known are {', '.join(DEFAULT_PORTS)}",
        )
    host, port = _split_port(key, rest, DEFAULT_PORTS[transport])
    return tuple(Address(zone, port, transport) for zone in zones_of(key, host))


def zones_of(key: Token, host: str) -> tuple[str, ...]:
    """Read a name, or a range as its reverse zones (`10.0.0.0/8` is `10.in-addr.arpa.`).

    A name may hold any character, as in CoreDNS: `0/27.2.0.192.in-addr.arpa` (RFC 2317 section 4)
    and `corp(1).example` are names. Raises CorefileError for empty or overlong labels.
    """
    try:
        network = ipaddress.ip_network(host, strict=False) if "/" in host else None
    except ValueError:
        network = None
    if network is not None:
        if host.startswith(":") or (host.startswith("0") and ":" in host):
            # CoreDNS refuses these, too: `::/0` would be every reverse name there is.
            raise CorefileError(key.file, key.line, f"{key.text!r} is no range for a zone")
        return _reverse_zones(network)
    if host.startswith("["):
        # CoreDNS takes it as a name that nobody asks for; who writes it means `bind`.
        problem = f"{key.text!r} is an address, not a zone: `bind` says where to listen"
        raise CorefileError(key.file, key.line, problem)
    name = host.rstrip(".").lower()
    labels = name.split(".") if name else []
    bad = any(not 0 < len(label.encode()) <= 63 for label in labels)
    if bad or len(name.encode()) > 253:
        raise CorefileError(key.file, key.line, f"{key.text!r} is not a zone name")
    return (name + ".",)


def _split_port(key: Token, text: str, default: int) -> tuple[str, int]:
    """Take off what follows the last colon where it is a number, as CoreDNS does; a range has its
    length before that, so `2001:db8::/32:53` has a port and `2001:db8::/32` has none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or (port and not _is_number(port)):
        return text, default
    if not port or not 1 <= int(port) <= 65535:
        raise CorefileError(key.file, key.line, f"{key.text!r} has a port outside 1-65535")
    return host or ".", int(port)


def _is_number(text: str) -> bool:
    digits = text[1:] if text[:1] in ("+", "-") else text
    # Bounded: Python refuses to read numbers of thousands of digits.
    return digits.isascii() and digits.isdigit() and len(digits) < 20


def _reverse_zones(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[str, ...]:
    step = 8 if network.version == 4 else 4
    length = min(-(-network.prefixlen // step) * step or step, network.max_prefixlen)
    if network.prefixlen == 0:
        return ("in-addr.arpa." if network.version == 4 else "ip6.arpa.",)
    kept = length // step
    zones = []
    for subnet in network.subnets(new_prefix=length):
        labels = subnet.network_address.reverse_pointer.split(".")
        zones.append(".".join(labels[-2 - kept :]) + ".")
    return tuple(zones)
