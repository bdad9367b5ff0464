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
    """Read a name, or a range as its reverse zones (`10.0.0.0/8` is `10.in-addr.arpa.`)."""
    try:
        network = ipaddress.ip_network(host, strict=False) if "/" in host else None
    except ValueError:
        network = None
    if network is not None:
        return _reverse_zones(network)
    name = host.rstrip(".").lower()
    labels = name.split(".") if name else []
    bad = any(not 0 < len(label.encode()) <= 63 for label in labels)
    if bad or len(name.encode()) > 253 or set(host) & set("/:[]{}()"):
        raise CorefileError(key.file, key.line, f"{key.text!r} is not a zone name")
    return (name + ".",)


def _split_port(key: Token, text: str, default: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, default
    if "/" in port or ":" in host:  # an IPv6 range, as in 2001:db8::/32, has no port
        return text, default
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise CorefileError(key.file, key.line, f"{key.text!r} has a port outside 1-65535")
    return host or ".", int(port)


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
