"""One line of a Corefile with what a reader asks of it; every refusal has file, line and rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeVar

import dns.exception

from nat64_dataplane.corefile import CorefileError, Stanza, Token
from nat64_dataplane.corefile.address import zones_of
from nat64_dataplane.dns64.message import domain_names

_T = TypeVar("_T")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_DURATION = timedelta(days=366).total_seconds()


class Line:
    """A stanza and the form it must have, as in `policy random|round_robin|sequential`."""

    def __init__(self, stanza: Stanza, form: str) -> None:
        self.stanza = stanza
        self.form = form

    @property
    def name(self) -> str:
        """The stanza's name."""
        return self.stanza.name.text

    @property
    def values(self) -> tuple[str, ...]:
        """The arguments."""
        return self.stanza.values

    def error(self, problem: str, token: Token | None = None) -> CorefileError:
        """Build the refusal of this line, or of one token on it."""
        where = token or self.stanza.name
        return CorefileError(where.file, where.line, f"{self.name}: {problem}")

    def expect(self, least: int, most: int | None = None, *, body: bool = False) -> None:
        """Refuse fewer or more arguments (`most` None: as many as `least`), or a needless block."""
        most = least if most is None else most
        if not least <= len(self.values) <= most:
            given = " ".join(self.values) or "nothing"
            raise self.error(f"{given!r} doesn't fit: write `{self.form}`")
        if self.stanza.body is not None and not body:
            raise self.error(f"takes no block: write `{self.form}`")

    def options(self, forms: dict[str, str]) -> Iterable[Line]:
        """Give each line of the block; refuse a name that isn't in `forms`."""
        for option in self.stanza.body or ():
            if option.name.text not in forms:
                raise CorefileError(
                    option.name.file,
                    option.line,
                    f"{self.name} has no option {option.name.text!r}: "
                    f"known are {', '.join(sorted(forms))}",
                )
            yield Line(option, forms[option.name.text])

    def flag(self) -> bool:
        """Read an option without arguments."""
        self.expect(0)
        return True

    def one(self) -> str:
        """Read the only argument."""
        self.expect(1)
        return self.values[0]

    def choice(self, text: str, allowed: Iterable[str]) -> str:
        """Refuse what isn't one of `allowed`."""
        known = list(allowed)
        if text not in known:
            raise self.error(f"{text!r} is not allowed: write {' or '.join(known)}")
        return text

    def integer(self, text: str, least: int, most: int) -> int:
        """Read a whole number within bounds."""
        if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII) or not least <= int(text) <= most:
            raise self.error(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    def seconds(self, text: str, least: float = 0.0, most: float = _MAX_DURATION) -> float:
        """Read a Go duration, as in `1m30s` or `500ms`."""
        parts = _DURATION.findall(text)
        written = "".join(number + unit for number, unit in parts)
        if text != "0" and (not parts or written != text):
            raise self.error(f"{text!r} is not a duration: write it as in 500ms, 30s or 1h30m")
        value = sum(float(number) * _UNITS[unit] for number, unit in parts)
        if not least <= value <= most:
            raise self.error(f"{text!r} is outside {_duration(least)} to {_duration(most)}")
        return value

    def zone(self, text: str) -> str:
        """Read one zone: fully qualified, lower case, `.` at its end."""
        zones = self.zones([text])
        if len(zones) != 1:
            raise self.error(
                f"{text!r} stands for {len(zones)} reverse zones: name them one by one"
            )
        return zones[0]

    def zones(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Read zones; a range stands for its reverse zones."""
        found: list[str] = []
        for text in texts:
            token = Token(text, self.stanza.name.file, self.stanza.line, 0, 0)
            if not text:
                raise self.error("an empty word is not a zone")
            found += zones_of(token, text)
        for zone in found:
            problem = zone_problem(zone)
            if problem:
                raise self.error(problem)
        return tuple(found)

    def ipv4_range(self, text: str) -> IPv4Network:
        """Read an IPv4 address or range."""
        return self._convert(IPv4Network, text, "an IPv4 address or range, as in 192.0.2.0/24")

    def ipv6_range(self, text: str) -> IPv6Network:
        """Read an IPv6 address or range."""
        return self._convert(IPv6Network, text, "an IPv6 address or range, as in 2001:db8::/32")

    def range(self, text: str) -> IPv4Network | IPv6Network:
        """Read an address or range of either family; bits past the length are ignored."""
        return self._convert(
            lambda value: ip_network(value, strict=False), text, "an address or range"
        )

    def address(self, text: str) -> IPv4Address | IPv6Address:
        """Read an address of either family, brackets and scope allowed."""
        plain = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        return self._convert(ip_address, plain, "an IP address")

    def listen(self, default_host: str, default_port: int) -> tuple[str, int]:
        """Read `[ADDRESS]`, as in `:8080`, `[::1]:8080` or `localhost:8080`; empty host = all."""
        self.expect(0, 1, body=True)
        if not self.values:
            return default_host, default_port
        host, colon, port = self.values[0].rpartition(":")
        if not colon:
            raise self.error(f"{self.values[0]!r} has no port: write `{self.form}`")
        host = host.strip("[]")
        if host and host != "localhost":
            host = str(self.address(host))
        return host, self.integer(port, 1, 65535)

    def _convert(self, read: Callable[[str], _T], text: str, what: str) -> _T:
        try:
            return read(text)
        except ValueError as error:
            raise self.error(f"{text!r} is not {what} ({error})") from None


def zone_problem(zone: str) -> str:
    """Say what is wrong with a zone that no query can name, though CoreDNS takes any text."""
    try:
        domain_names.from_text(zone)
    except (dns.exception.DNSException, ValueError) as error:
        return f"{zone!r} is not a zone name: {error}"
    return ""


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:g}ms" if 0 < seconds < 1 else f"{seconds:g}s"
