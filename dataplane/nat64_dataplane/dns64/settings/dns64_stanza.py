"""The `dns64` stanza: CoreDNS's options with CoreDNS's meaning, and our own in the same style."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network

from nat64_dataplane import pref64
from nat64_dataplane.dns64.settings.stanza_line import Line
from nat64_dataplane.dns64.settings.typed_settings import Dns64, Ptr, Unprogrammed

MAX_PREFIXES = 8
MAX_RANGES = 256

FORM = "dns64 [PREFIX] { ... }"
OPTIONS = {
    "prefix": "prefix PREFIX...",
    "translate_all": "translate_all",
    "allow_ipv4": "allow_ipv4",
    "exclude_aaaa": "exclude_aaaa RANGE...|none",
    "exclude_a": "exclude_a RANGE...",
    "map": "map RANGE PREFIX...",
    "exempt": "exempt ZONE...",
    "ptr": "ptr cname|off|local NAME",
    "break_dnssec": "break_dnssec on|off",
    "special_use": "special_use filter|allow",
    "translator": "translator PATH [passthrough|servfail]",
}


def read(line: Line) -> Dns64:
    """Read the stanza. Raises CorefileError."""
    line.expect(0, 1, body=True)
    result = Dns64()
    prefixes = [_prefix(line, text) for text in line.values]
    excluded: list[IPv6Network] | None = None
    excluded_a: list[IPv4Network] = []
    maps: dict[IPv4Network, tuple[IPv6Network, ...]] = {}
    exempt: list[str] = []
    for option in line.options(OPTIONS):
        match option.name:
            case "prefix":
                option.expect(1, MAX_PREFIXES)
                prefixes += [_prefix(option, text) for text in option.values]
            case "translate_all":
                result = replace(result, translate_all=option.flag())
            case "allow_ipv4":
                result = replace(result, allow_ipv4=option.flag())
            case "exclude_aaaa":
                option.expect(1, MAX_RANGES)
                texts = () if option.values == ("none",) else option.values
                excluded = (excluded or []) + [option.ipv6_range(text) for text in texts]
            case "exclude_a":
                option.expect(1, MAX_RANGES)
                excluded_a += [option.ipv4_range(text) for text in option.values]
            case "map":
                option.expect(2, 1 + MAX_PREFIXES)
                source = option.ipv4_range(option.values[0])
                if source in maps:
                    raise option.error(f"{source} is mapped twice")
                maps[source] = tuple(_prefix(option, text) for text in option.values[1:])
            case "exempt":
                option.expect(1, MAX_RANGES)
                exempt += option.zones(option.values)
            case "ptr":
                result = _ptr(option, result)
            case "break_dnssec":
                breaks = option.choice(option.one(), ("on", "off")) == "on"
                result = replace(result, break_dnssec=breaks)
            case "special_use":
                allow = option.choice(option.one(), ("filter", "allow")) == "allow"
                result = replace(result, allow_special_use=allow)
            case _:
                result = _translator(option, result)
    if len(set(prefixes)) > MAX_PREFIXES:
        raise line.error(f"{len(set(prefixes))} prefixes: at most {MAX_PREFIXES}")
    if len(excluded_a) > MAX_RANGES or len(excluded or ()) > MAX_RANGES or len(maps) > MAX_RANGES:
        raise line.error(f"more than {MAX_RANGES} ranges in one option")
    by_length = sorted(maps.items(), key=lambda item: -item[0].prefixlen)
    return replace(
        result,
        prefixes=tuple(dict.fromkeys(prefixes)) or result.prefixes,
        exclude_aaaa=result.exclude_aaaa if excluded is None else tuple(excluded),
        exclude_a=tuple(excluded_a),
        maps=tuple(by_length),
        exempt=tuple(dict.fromkeys(exempt)),
    )


def _prefix(line: Line, text: str) -> IPv6Network:
    prefix = line.ipv6_range(text)
    try:
        pref64.check(prefix)
    except ValueError as error:
        raise line.error(str(error)) from None
    return prefix


def _ptr(option: Line, result: Dns64) -> Dns64:
    option.expect(1, 2)
    mode = Ptr(option.choice(option.values[0], ("cname", "off", "local")))
    option.expect(2 if mode is Ptr.LOCAL else 1)
    name = option.zone(option.values[1]) if mode is Ptr.LOCAL else ""
    return replace(result, ptr=mode, ptr_name=name)


def _translator(option: Line, result: Dns64) -> Dns64:
    option.expect(1, 2)
    path = option.values[0]
    if not path.startswith("/") or "\0" in path:
        raise option.error(f"{path!r} is not an absolute path")
    mode = option.values[1] if len(option.values) > 1 else Unprogrammed.PASSTHROUGH.value
    allowed = [member.value for member in Unprogrammed]
    return replace(result, translator=path, unprogrammed=Unprogrammed(option.choice(mode, allowed)))
