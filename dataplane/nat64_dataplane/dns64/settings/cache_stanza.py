"""The `cache` stanza, as CoreDNS has it."""

from __future__ import annotations

from dataclasses import replace

from nat64_dataplane.dns64.settings.stanza_line import Line
from nat64_dataplane.dns64.settings.typed_settings import Cache, ServeStale

MAX_TTL = 2**31 - 1
MAX_CAPACITY = 10_000_000
MIN_CAPACITY = 1024
"""CoreDNS's smallest cache: a smaller one asked for is made this large."""

FORM = "cache [TTL] [ZONES...] { ... }"
OPTIONS = {
    "success": "success CAPACITY [TTL] [MINTTL]",
    "denial": "denial CAPACITY [TTL] [MINTTL]",
    "prefetch": "prefetch AMOUNT [[DURATION] [PERCENTAGE%]]",
    "serve_stale": "serve_stale [DURATION] [immediate [TTL [RECHECK]] | "
    "verify [TIMEOUT [TTL [RECHECK]]]]",
    "serve_stale_policy": "serve_stale_policy prefer_positive",
    "servfail": "servfail DURATION",
    "disable": "disable success|denial [ZONES...]",
    "keepttl": "keepttl",
}


def read(line: Line, zones: tuple[str, ...]) -> Cache:
    """Read the stanza; `zones` are the server block's. Raises CorefileError."""
    line.expect(0, 256, body=True)
    words = list(line.values)
    result = Cache(zones=zones)
    if words and words[0].lstrip("-").isdigit():
        ttl = line.integer(words.pop(0), 1, MAX_TTL)
        result = replace(result, success_ttl=ttl, denial_ttl=ttl)
    if words:
        result = replace(result, zones=line.zones(words))
    for option in line.options(OPTIONS):
        result = _option(option, result)
    if result.prefer_positive and result.stale is None:
        raise line.error("serve_stale_policy needs serve_stale")
    return result


def _option(option: Line, result: Cache) -> Cache:
    match option.name:
        case "success":
            size, ttl, least = _sizes(option, result.success_ttl, result.success_min_ttl)
            return replace(result, success_capacity=size, success_ttl=ttl, success_min_ttl=least)
        case "denial":
            size, ttl, least = _sizes(option, result.denial_ttl, result.denial_min_ttl)
            return replace(result, denial_capacity=size, denial_ttl=ttl, denial_min_ttl=least)
        case "prefetch":
            return _prefetch(option, result)
        case "serve_stale":
            return replace(result, stale=_stale(option))
        case "serve_stale_policy":
            option.choice(option.one(), ("prefer_positive",))
            return replace(result, prefer_positive=True)
        case "servfail":
            return replace(result, servfail_ttl=option.seconds(option.one(), most=300.0))
        case "disable":
            option.expect(1, 256)
            kind = option.choice(option.values[0], ("success", "denial"))
            zones = option.zones(option.values[1:]) or (".",)
            if kind == "success":
                return replace(result, no_success=zones)
            return replace(result, no_denial=zones)
        case _:
            return replace(result, keep_ttl=option.flag())


def _sizes(option: Line, ttl: int, least: int) -> tuple[int, int, int]:
    option.expect(1, 3)
    words = option.values
    size = max(option.integer(words[0], 0, MAX_CAPACITY), MIN_CAPACITY)
    if len(words) > 1:
        ttl = option.integer(words[1], 1, MAX_TTL)
    if len(words) > 2:
        least = option.integer(words[2], 0, MAX_TTL)
    return size, ttl, least


def _prefetch(option: Line, result: Cache) -> Cache:
    option.expect(1, 3)
    words = option.values
    result = replace(result, prefetch=option.integer(words[0], 0, MAX_TTL))
    if len(words) > 1:
        result = replace(result, prefetch_duration=option.seconds(words[1]))
    if len(words) > 2:
        if not words[2].endswith("%"):
            raise option.error(f"{words[2]!r} is not a percentage: write it as in 20%")
        result = replace(result, prefetch_percent=option.integer(words[2][:-1], 10, 90))
    return result


def _stale(option: Line) -> ServeStale:
    option.expect(0, 5)
    words = list(option.values)
    result = ServeStale()
    if words:
        result = replace(result, duration=option.seconds(words.pop(0)))
    if words:
        mode = option.choice(words.pop(0).lower(), ("immediate", "verify"))
        result = replace(result, verify=mode == "verify")
    if words and result.verify:
        result = replace(result, verify_timeout=option.seconds(words.pop(0)))
    if words:
        ttl = option.seconds(words.pop(0), most=MAX_TTL)
        if ttl != int(ttl):
            raise option.error("the response TTL must be whole seconds")
        result = replace(result, ttl=int(ttl))
    if words:
        result = replace(result, recheck=option.seconds(words.pop(0), most=300.0))
    if words:
        raise option.error(f"{words[0]!r} is one word too many: write `{option.form}`")
    return result
