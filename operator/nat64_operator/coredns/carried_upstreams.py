"""What CoreDNS's `forward .` line means for the sidecars, which ask its upstreams instead of
CoreDNS.

Each option keeps its meaning, or the line is refused with its number and the remedy. An upstream
that is dropped silently is a name that no longer resolves, or encryption that is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import msgspec

from nat64_dataplane import corefile
from nat64_operator.api.policy import NODE_RESOLVERS, Forward, ForwardPolicy, HealthCheck
from nat64_operator.coredns.forward_line import Line
from nat64_operator.errors import UnsupportedUpstreamsError
from nat64_operator.render.forward_stanza import is_askable, named

REMEDY = "set spec.upstreams to resolvers that the nodes can ask, or use the mode Plugin or Manual"


class Upstreams(msgspec.Struct, frozen=True):
    """Which upstreams the sidecars ask, and how."""

    names: tuple[str, ...] = ()
    forward: Forward = Forward()


def carried(found: Line, own: str, forward: Forward) -> Upstreams:
    """The line's upstreams without `own`, and its options. The policy's `forward` takes precedence.

    Raises UnsupportedUpstreamsError if a sidecar can't ask as CoreDNS does.
    """
    others = [upstream for upstream in found.upstreams if not own or upstream != own]
    problems = [problem for upstream in others for problem in _unaskable(upstream)]
    problems += _files(found.stanza)
    if problems:
        line = found.stanza.line
        raise UnsupportedUpstreamsError(f"line {line}: {'; '.join(problems)}; {REMEDY}")
    server_name = next((o.values[0] for o in _options(found, "tls_servername") if o.values), "")
    names = tuple(dict.fromkeys(named(upstream, server_name) for upstream in others))
    return Upstreams(names, _options_of(found, forward))


def _unaskable(upstream: str) -> Iterator[str]:
    """Why a sidecar can't ask it: the sidecar is in another pod, on the node's own network."""
    scheme, given, rest = upstream.partition("://")
    if upstream == NODE_RESOLVERS:
        return
    if "{$" in upstream or "{%" in upstream:
        yield f"{upstream} is a variable of CoreDNS's own environment"
    elif given and scheme not in ("dns", "tls"):
        yield f"{upstream} needs {scheme}, which the sidecars don't support"
    elif upstream.startswith("/"):
        yield f"{upstream} is a file in CoreDNS's own pod"
    elif _is_loopback(rest if given else upstream):
        yield f"{upstream} is a resolver in CoreDNS's own pod"
    elif not is_askable(upstream):
        yield f"{upstream} is not an address that a sidecar can ask"


def _is_loopback(text: str) -> bool:
    host = text.partition("%")[0]
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _files(stanza: corefile.Stanza) -> Iterator[str]:
    for option in stanza.options("tls"):
        if option.values:
            yield (
                f"`tls {' '.join(option.values)}` (line {option.line}) names files in CoreDNS's "
                "own pod"
            )


def _options(found: Line, name: str) -> list[corefile.Stanza]:
    return list(found.stanza.options(name))


def _options_of(found: Line, forward: Forward) -> Forward:
    """The policy's `forward`, with the line's options for everything that it doesn't set."""
    default, changes = Forward(), dict[str, Any]()
    for field, read in _READERS.items():
        if getattr(forward, field) == getattr(default, field):
            value = read(found)
            if value is not None:
                changes[field] = value
    return msgspec.structs.replace(forward, **changes)


def _force_tcp(found: Line) -> bool | None:
    return True if _options(found, "force_tcp") else None


def _fail_fast(found: Line) -> bool | None:
    return True if _options(found, "failfast_all_unhealthy_upstreams") else None


def _policy(found: Line) -> ForwardPolicy:
    """CoreDNS's own default is a random one, so that no upstream gets all the load."""
    said = [option.values[0] for option in _options(found, "policy") if option.values]
    return {
        "sequential": ForwardPolicy.SEQUENTIAL,
        "round_robin": ForwardPolicy.ROUND_ROBIN,
    }.get(said[-1] if said else "", ForwardPolicy.RANDOM)


def _max_fails(found: Line) -> int | None:
    said = [o.values[0] for o in _options(found, "max_fails") if o.values]
    return int(said[-1]) if said and said[-1].isascii() and said[-1].isdigit() else None


def _failover(found: Line) -> tuple[str, ...] | None:
    said = tuple(value.upper() for o in _options(found, "failover") for value in o.values)
    return tuple(dict.fromkeys(said)) or None


def _health_check(found: Line) -> HealthCheck | None:
    """Whether probes ask for recursion, and for which name. The sidecars have an interval of their
    own.
    """
    for option in _options(found, "health_check"):
        words = list(option.values)
        at = words.index("domain") + 1 if "domain" in words else len(words)
        domain = words[at] if at < len(words) else "."
        return HealthCheck(domain=domain, recursion_desired="no_rec" not in words)
    return None


_READERS: dict[str, Callable[[Line], Any]] = {
    "policy": _policy,
    "force_tcp": _force_tcp,
    "fail_fast": _fail_fast,
    "max_fails": _max_fails,
    "failover": _failover,
    "health_check": _health_check,
}
