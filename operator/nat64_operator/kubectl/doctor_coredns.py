"""`kubectl nat64 doctor`, CoreDNS: whether its ConfigMaps are as a policy wants them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from nat64_dataplane import corefile
from nat64_operator.api.policy import Mode
from nat64_operator.coredns import corefile_edits, forward_line
from nat64_operator.coredns.root_block import is_root
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.kubectl.checks import Step, note, ok, stop
from nat64_operator.kubectl.exec_output import Json

ConfigMaps = Mapping[tuple[str, str], Mapping[str, str]]
"""Their data, by namespace and name."""

_CONDITIONS = "the DNS64Policy's conditions say why the operator left it so"
_PASTE = "put the DNS64Policy's status.stanza there"


def place_of(policy: Json) -> tuple[str, str]:
    """Namespace and name of the ConfigMap with CoreDNS's own Corefile."""
    core = _core(policy)
    return core.get("namespace", "kube-system"), core.get("configMapName", "coredns")


def custom_of(policy: Json) -> tuple[str, str] | None:
    """Those of the ConfigMap that the Corefile imports, if the policy writes into that."""
    core = _core(policy)
    if core.get("mode") != Mode.IMPORT.value:
        return None
    return core.get("namespace", "kube-system"), core.get("customConfigMapName", "coredns-custom")


def gateway_of(policy: Json) -> str:
    """The name of its gateway."""
    name: str = ((policy.get("spec") or {}).get("gatewayRef") or {}).get("name", "default")
    return name


def judge(policy: Json, gateway: Mapping[str, Any], found: ConfigMaps) -> Iterator[Step]:
    """Whether CoreDNS is configured to synthesize, in the policy's mode. `gateway`: its status."""
    place = place_of(policy)
    text, where = found[place].get("Corefile", ""), "/".join(place)
    address, prefix = gateway.get("dnsAddress"), gateway.get("prefix")
    mode = Mode(_core(policy).get("mode", Mode.FORWARD.value))
    match mode:
        case Mode.FORWARD:
            yield from forward(text, address, where)
        case Mode.PLUGIN:
            yield from plugin(text, prefix, where)
        case Mode.IMPORT:
            yield from _imported(policy, text, found, where)
        case Mode.MANUAL:
            yield _manual(text, address, where)
    yield from unsynthesized(text, mode, where)


def unsynthesized(text: str, mode: Mode, where: str) -> Iterator[Step]:
    """Names with only IPv4 that this mode doesn't cover: CoreDNS answers them otherwise."""
    try:
        tree = corefile.parse(text)
    except corefile.CorefileError:
        return  # said already
    for block in tree.blocks:
        root = block.serves(".", None)
        if root and mode is Mode.PLUGIN:
            continue  # its dns64 comes before everything else in the block
        stubs = [s for s in block.find("forward") if s.args]
        zones = (
            [(s.values[0], s.line) for s in stubs if not is_root(s)]
            if root
            else [(key.text, key.line) for key in block.keys if stubs]
        )
        for zone, number in zones:
            if not zone.rstrip(".").endswith((".arpa", "cluster.local")) and "/" not in zone:
                yield _not_reached(f"names in {zone} are forwarded elsewhere", number, where)
        for hosts in block.find("hosts") if root else ():
            for name, number in ipv4_only(hosts):
                yield _not_reached(f"{name} has an IPv4 address in `hosts` only", number, where)


def ipv4_only(hosts: corefile.Stanza) -> list[tuple[str, int]]:
    """Names and lines of inline entries without an IPv6 address."""
    families: dict[str, set[int]] = {}
    lines: dict[str, int] = {}
    for entry in hosts.body or ():
        try:
            version = ip_address(entry.name.text).version
        except ValueError:
            continue  # an option
        for name in entry.values:
            families.setdefault(name, set()).add(version)
            lines.setdefault(name, entry.line)
    return [(name, lines[name]) for name, found in families.items() if found == {4}]


def _not_reached(what: str, number: int, where: str) -> Step:
    return note(
        "wiring",
        f"{where} line {number}: {what}, so no IPv6 address is synthesized",
        "spec.coreDNS.mode Plugin for what is in the block for `.`; for a zone its resolvers in "
        "spec.zones, or CoreDNS's dns64 in its own block",
    )


def forward(text: str, address: str | None, where: str) -> Iterator[Step]:
    """Whether a Corefile's `forward .` line sends names to the sidecars first."""
    try:
        found = forward_line.find(text)
    except UnsupportedCorefileError as error:
        yield _unsupported(where, error)
        return
    first = found.upstreams[0] if found.upstreams else "nothing"
    if address and first == forward_line.upstream(address):
        yield ok("wiring", f"{where} forwards to the sidecars at {address} first")
    else:
        yield stop(
            "wiring",
            f"{where} line {found.stanza.line} forwards to {first} first, not to the sidecars at "
            f"{address or 'any address'}",
            _CONDITIONS,
        )
    if corefile_edits.find_plugin(text).stanza is not None:
        yield note(
            "wiring",
            f"{where} has CoreDNS's own dns64 too: both synthesize",
            "remove it from the Corefile, or use spec.coreDNS.mode Plugin",
        )


def plugin(text: str, prefix: str | None, where: str) -> Iterator[Step]:
    """Whether a Corefile has CoreDNS's own dns64 with the gateway's prefix."""
    try:
        site = corefile_edits.find_plugin(text)
    except UnsupportedCorefileError as error:
        yield _unsupported(where, error)
        return
    if site.stanza is None:
        yield stop("wiring", f"{where} has no `dns64` stanza", _CONDITIONS)
    elif not prefix or prefix not in site.tokens:
        said = " ".join(site.text.split())
        yield stop(
            "wiring",
            f"{where} has `{said}`, and not the gateway's prefix {prefix or '(it has none yet)'}",
            _CONDITIONS,
        )
    else:
        yield ok("wiring", f"{where} has CoreDNS's own dns64 for {prefix}")


def _imported(policy: Json, text: str, found: ConfigMaps, where: str) -> Iterator[Step]:
    try:
        corefile_edits.overrides(text, _key_of(policy))
    except UnsupportedCorefileError as error:
        yield _unsupported(where, error)
        return
    custom = custom_of(policy)
    assert custom is not None, "the mode is Import"
    key, place = _key_of(policy), "/".join(custom)
    if custom not in found:
        return  # named among what could not be read
    if found[custom].get(key):
        yield ok("wiring", f"{where} imports {key} of {place}")
    else:
        yield stop("wiring", f"{place} has no key {key}", _CONDITIONS)


def _key_of(policy: Json) -> str:
    return f"nat64-{policy['metadata']['name']}.override"


def _manual(text: str, address: str | None, where: str) -> Step:
    try:
        tree = corefile.parse(text)
    except corefile.CorefileError as error:
        return _unsupported(where, error)
    ours = forward_line.upstream(address) if address else ""
    stanzas = [stanza for block in tree.blocks for stanza in block.stanzas]
    if any(
        stanza.name.text == corefile_edits.PLUGIN or ours in stanza.values for stanza in stanzas
    ):
        return ok("wiring", f"{where} names the sidecars, or CoreDNS's own dns64")
    return note("wiring", f"{where} doesn't name the sidecars", _PASTE)


def _unsupported(where: str, error: Exception) -> Step:
    return stop("wiring", f"{where}: {error}", "spec.coreDNS.mode Manual, and wire it yourself")


def _core(policy: Json) -> Mapping[str, Any]:
    core: Mapping[str, Any] = (policy.get("spec") or {}).get("coreDNS") or {}
    return core
