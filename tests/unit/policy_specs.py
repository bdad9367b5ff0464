"""What a CRD says of `spec`, and specs that the API server takes, drawn from just that: types,
bounds, enums and rules.

A rule that is a pattern is drawn from as it stands. Other rules are known by their message, so a
new one fails until there is a strategy for it here. tests/operator/test_crds.py sends what is
drawn to a real API server.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

CRDS = Path(__file__).parents[2] / "crds"
Schema = dict[str, Any]
Strings = st.SearchStrategy[str]


@lru_cache
def schema(plural: str) -> Schema:
    """What a CRD says of `spec`."""
    crd = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    [version] = crd["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def defaulted(schema: dict[str, Any], value: Any = None) -> Any:
    """What the API server makes of a value: defaults filled in, level by level."""
    if value is None:
        value = schema.get("default")
    if isinstance(value, dict) and "properties" in schema:
        filled = dict(value)
        for name, child in schema["properties"].items():
            found = defaulted(child, value.get(name))
            if found is not None:
                filled[name] = found
        return filled
    return value


def fields(schema: dict[str, Any], path: str = "spec") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from fields(child, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], f"{path}[]")


def fields_set(spec: Any, path: str = "spec") -> set[str]:
    if isinstance(spec, dict):
        inner = (fields_set(value, f"{path}.{key}") for key, value in spec.items())
        return {path}.union(*inner)
    if isinstance(spec, list) and spec and isinstance(spec[0], dict):
        return {path}.union(*(fields_set(item, f"{path}[]") for item in spec))
    return {path}


def _spelt(text: str) -> Strings:
    return st.sampled_from([text, text.upper()])


ipv4 = st.ip_addresses(v=4)
# Kubernetes refuses the mapped ones everywhere.
ipv6 = st.ip_addresses(v=6).filter(lambda a: IPv6Address(a).ipv4_mapped is None)
addresses = ipv4.map(str) | ipv6.flatmap(lambda a: st.sampled_from([str(a), a.exploded]))
ipv4_ranges = st.builds(
    lambda a, n: str(IPv4Network((a, n), strict=False)), ipv4, st.integers(0, 32)
)
ipv6_ranges = (
    st.builds(lambda a, n: IPv6Network((a, n), strict=False), ipv6, st.integers(0, 128))
    .filter(lambda n: n.network_address.ipv4_mapped is None)
    .flatmap(lambda n: _spelt(str(n)))
)


def _pref64(address: IPv6Address, length: int) -> IPv6Network:
    return IPv6Network((int(address) & ~(0xFF << 56), length), strict=False)


def _is_routable(prefix: IPv6Network) -> bool:
    address = prefix.network_address
    special = address.is_unspecified or address.is_loopback or address.is_link_local
    return not (special or address.is_multicast or address.ipv4_mapped)


pref64s = (
    st.builds(_pref64, ipv6, st.sampled_from([32, 40, 48, 56, 64, 96]))
    .filter(_is_routable)
    .flatmap(lambda n: _spelt(str(n)))
)

_NAME = st.from_regex(r"%[A-Za-z0-9_][A-Za-z0-9_.-]{0,40}", fullmatch=True)
_PORT = st.integers(1, 65535).map(lambda n: f":{n}") | st.just(":00053")


def _upstream(tls: bool, address: IPv4Address | IPv6Address, name: str, port: str) -> str:
    host = f"{address}{name if tls else ''}"
    host = f"[{host}]" if address.version == 6 else host
    return f"{'tls://' if tls else ''}{host}{port}"


upstreams = (
    st.just("/etc/resolv.conf")
    | addresses
    | st.builds(_upstream, st.booleans(), ipv4 | ipv6, st.just("") | _NAME, st.just("") | _PORT)
)

BY_MESSAGE: dict[str, Strings] = {
    "must be an IP address": addresses,
    "must be a range": ipv4_ranges | ipv6_ranges,
    "must be an IPv6 range": ipv6_ranges | st.just("::ffff:0:0/96"),
    "must be an IPv4 range": ipv4_ranges,
    "is not an IPv6 prefix": pref64s,
}
"""The strategy for a string, by how the message of its first rule begins."""


def _few_beside_the_nodes(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return found[:12] if {"source": "Node"} in found else found


def _one_source(found: dict[str, Any]) -> dict[str, Any]:
    if "address" in found:
        return {k: v for k, v in found.items() if k != "source"}
    return {"source": "Node"}


def _name_for_local(found: dict[str, Any]) -> dict[str, Any]:
    local = found.get("ptr") == "Local"
    if local == ("ptrName" in found):
        return found
    return {k: v for k, v in found.items() if k not in ("ptr", "ptrName")}


def _with_sidecars(found: dict[str, Any]) -> dict[str, Any]:
    """Another mode than Plugin, which leaves most fields without a meaning."""
    core_dns = found.get("coreDNS", {})
    if core_dns.get("mode") != "Plugin":
        return found
    return {**found, "coreDNS": {k: v for k, v in core_dns.items() if k != "mode"}}


def _old_enough(found: dict[str, Any]) -> dict[str, Any]:
    if 0 < found.get("maxAgeSeconds", 0) < found.get("expireSeconds", 10):
        return {k: v for k, v in found.items() if k != "maxAgeSeconds"}
    return found


REPAIRS: dict[str, Callable[[Any], Any]] = {
    "must have at most 12 items where one has the source Node": _few_beside_the_nodes,
    "an address goes with the source Address": _one_source,
    "port and tls go with the source Address": _one_source,
    "is needed where ptr is Local": _name_for_local,
    "has no meaning unless ptr is Local": _name_for_local,
    "has no meaning with the mode Plugin": _with_sidecars,
    "must be 0 (no limit), or not less than expireSeconds": _old_enough,
}
"""What a rule of a list or an object takes away, by how its message begins."""


def specs(plural: str, full: str = "", leave: frozenset[str] = frozenset()) -> Any:
    """A strategy for whole specs; the list at the path `full` has as many items as it may."""
    return _of(schema(plural), "spec", full, leave)


def lists(field: Schema, path: str = "spec") -> list[str]:
    """The paths of all lists that can be of any length."""
    found = [path] if "maxItems" in field and "enum" not in field["items"] else []
    for name, child in field.get("properties", {}).items():
        found += lists(child, f"{path}.{name}")
    return found + (lists(field["items"], f"{path}[]") if "items" in field else [])


def _of(field: Schema, path: str, full: str, leave: frozenset[str]) -> Any:
    match field.get("type"):
        case "object":
            required = set(field.get("required", ()))
            children = {
                name: _of(child, f"{path}.{name}", full, leave)
                for name, child in field["properties"].items()
                if f"{path}.{name}" not in leave
            }
            must = {n for n in children if n in required or full.startswith(f"{path}.{n}")}
            made = st.fixed_dictionaries(
                {name: children[name] for name in must},
                optional={n: child for n, child in children.items() if n not in must},
            )
        case "array":
            made = _list(field, path, full, leave)
        case "string":
            return _string(field)
        case "integer":
            least, most = field["minimum"], field["maximum"]
            return st.sampled_from([least, most]) | st.integers(least, most)
        case "boolean":
            return st.booleans()
        case other:
            raise AssertionError(f"{path}: no strategy for {other}")
    for rule in field.get("x-kubernetes-validations", ()):
        made = made.map(_known(REPAIRS, rule))
    return made


def _list(field: Schema, path: str, full: str, leave: frozenset[str]) -> Any:
    most, least = field["maxItems"], field.get("minItems", 0)
    inside = full.startswith(f"{path}[]")
    least = most if path == full else max(least, int(inside))
    items = _of(field["items"], f"{path}[]", full if inside else "", leave)
    keys = field.get("x-kubernetes-list-map-keys")
    return st.lists(
        items,
        min_size=least,
        max_size=most if path == full else max(least, min(most, 4)),
        unique_by=(lambda item: tuple(item[key] for key in keys)) if keys else repr,
    )


def _string(field: Schema) -> Strings:
    if "enum" in field:
        return st.sampled_from(field["enum"])
    first, *_ = field["x-kubernetes-validations"]
    pattern = re.fullmatch(r"self\.matches\('([^']+)'\)", first["rule"])
    if pattern:
        drawn = st.from_regex(pattern[1], fullmatch=True)
        return drawn.filter(lambda text: len(text) <= field["maxLength"])
    found: Strings = _known(BY_MESSAGE, first)
    return found


def _known(table: dict[str, Any], rule: Schema) -> Any:
    for start, found in table.items():
        if rule["message"].startswith(start):
            return found
    raise AssertionError(f"no strategy for the rule {rule['message']!r}")
