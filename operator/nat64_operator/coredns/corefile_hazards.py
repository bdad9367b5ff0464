"""What makes our part of a Corefile useless or harmful: checked before each write.

Each check is a row of `CHECKS` and yields a sentence with the line and the remedy. What the text
doesn't tell is found out by the questions that are asked before and after a write.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator

from nat64_dataplane import corefile
from nat64_operator.api.policy import Mode
from nat64_operator.coredns import root_block
from nat64_operator.coredns.root_block import NO_FILES, Files, Root
from nat64_operator.errors import UnsupportedCorefileError

SAMPLE_NAMES = ("ipv4only.arpa.", "www.example.com.", "a1.b-2.example.net.")
"""Samples of external names: a pattern that matches one matches names that we synthesize."""

MANUAL = "or use the mode Manual"


def check(text: str, mode: Mode, files: Files = NO_FILES) -> None:
    """Raise UnsupportedCorefileError with everything that prevents wiring in this mode."""
    found = root_block.root(text, files)
    problems = [problem for look in CHECKS for problem in look(found, mode)]
    problems += _without_reload(text, files)
    problems += _unread_imports(found, mode, files)
    if problems:
        raise UnsupportedCorefileError("; ".join(problems))


def _views(found: Root, mode: Mode) -> Iterator[str]:
    del mode
    for piece in found.find("view"):
        yield (
            f"{piece.where}: `view` restricts the server block for `.` to some queries, so others "
            f"would not be synthesized; remove it, {MANUAL}"
        )


def _second_dns64(found: Root, mode: Mode) -> Iterator[str]:
    for piece in found.find("dns64"):
        if mode is Mode.PLUGIN and piece.via is None:
            continue  # it is replaced, and comes back
        way = "" if piece.via is not None else ", or use the mode Plugin, which replaces it"
        yield (
            f"{piece.where}: CoreDNS's own `dns64` is there, and both would synthesize; "
            f"remove it{way}"
        )


def _template(found: Root, mode: Mode) -> Iterator[str]:
    del mode
    for piece in found.find("template"):
        if _takes_aaaa(piece.stanza):
            yield (
                f"{piece.where}: `template {' '.join(piece.stanza.values)}` answers questions for "
                "AAAA, so none would be synthesized; remove it, or restrict it by zone or "
                f"`match` with `fallthrough`, {MANUAL}"
            )


def _takes_aaaa(stanza: corefile.Stanza) -> bool:
    words = [value.upper() for value in stanza.values[:2]]
    if len(words) < 2 or words[0] not in ("IN", "ANY") or words[1] not in ("AAAA", "ANY"):
        return False
    if not _is_for_root(stanza.args[2:]):
        return False
    patterns = [value for option in stanza.options("match") for value in option.values]
    if not patterns or any(map(_takes_any_name, patterns)):
        return True
    # A name that no pattern takes gets SERVFAIL, unless it may fall through.
    return not any(
        not option.values or _is_for_root(option.args) for option in stanza.options("fallthrough")
    )


def _takes_any_name(pattern: str) -> bool:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return True
    return any(compiled.search(name) for name in SAMPLE_NAMES)


def _rewrite(found: Root, mode: Mode) -> Iterator[str]:
    del mode
    for piece in found.find("rewrite"):
        words = [word.upper() for word in _words(piece.stanza)]
        for at, word in enumerate(words):
            if word == "TYPE" and words[at + 1 : at + 2] == ["AAAA"] and words[at + 2 :]:
                to = words[at + 2]
                if to != "AAAA":
                    yield (
                        f"{piece.where}: `rewrite type AAAA {to}` turns every AAAA question into "
                        f"one for {to}, so none would be synthesized; remove it, {MANUAL}"
                    )


def _acl(found: Root, mode: Mode) -> Iterator[str]:
    del mode
    for piece in found.find("acl"):
        if not _is_for_root(piece.stanza.args):
            continue
        for rule in piece.stanza.body or ():
            types, nets = _sections(rule)
            aaaa = "AAAA" in types
            if rule.name.text.lower() == "allow" and (aaaa or not types or "*" in types):
                return  # the rules below it no longer match these clients
            if aaaa and (not nets or any(net == "*" or ":" in net for net in nets)):
                written = " ".join([rule.name.text, *rule.values])
                yield (
                    f"{piece.where}: `acl` has `{written}` (line {rule.line}), which withholds "
                    f"AAAA records from clients with IPv6; remove it, {MANUAL}"
                )


def _sections(rule: corefile.Stanza) -> tuple[list[str], list[str]]:
    """The types and the ranges that an acl's rule is for."""
    types: list[str] = []
    nets: list[str] = []
    into: list[str] = []
    for value in rule.values:
        word = value.lower()
        if word in ("type", "net"):
            into = types if word == "type" else nets
        else:
            into.append(value.upper() if into is types else word)
    return types, nets


CHECKS: tuple[Callable[[Root, Mode], Iterator[str]], ...] = (
    _views,
    _second_dns64,
    _template,
    _rewrite,
    _acl,
)


def _unread_imports(found: Root, mode: Mode, files: Files) -> Iterator[str]:
    """A file that is imported before `forward .` may have a `forward .` of its own, which CoreDNS
    would use. If a pattern matches no known file, it is taken to match none: this is so on most
    clusters.
    """
    if mode is Mode.PLUGIN:
        return
    remedy = f"move the `import` behind `forward .`, {MANUAL}"
    forwards = {id(piece.stanza) for piece in found.forwards()}
    for stanza in found.block.stanzas:
        if id(stanza) in forwards:
            return
        if stanza.name.text != "import" or not stanza.values:
            continue
        name = stanza.values[0]
        if name in found.snippets:
            continue
        where = f"line {stanza.line}, `import {name}`"
        brought = root_block.matching(stanza, files)
        for file, text in brought:
            if problem := root_block.problem_of(file, text):
                yield f"{where}: {problem}, and may have a `forward .`; mend it, or {remedy}"
        if not brought and not any(sign in name for sign in "*?["):
            yield (
                f"{where}: the operator doesn't see that file, and it may have a `forward .`; put "
                f"it into the ConfigMap that spec.coreDNS.customConfigMapName names, or {remedy}"
            )
        elif not brought and (unread := files.get(root_block.UNREAD)):
            yield (
                f"{where}: the operator may not read ConfigMap {unread}, and what is imported "
                "from it may have a `forward .`; give it the right by the chart's coreDNS values, "
                f"or {remedy}"
            )


def _without_reload(text: str, files: Files) -> list[str]:
    """CoreDNS reads a changed file only with `reload`, which any of its server blocks may have."""
    tree = root_block.parse(text)
    for block in tree.blocks:
        pieces = root_block.pieces_of(block.stanzas, tree.snippets, files)
        if any(piece.name == "reload" for piece in pieces):
            return []
    if any(one.find("reload") for one in root_block.roots(text, files)):
        return []
    if root_block.has_unread_imports(text, files):
        return []
    line = root_block.root(text, files).block.line
    return [
        f"line {line}: no server block has `reload`, so CoreDNS would not read a changed Corefile; "
        f"add `reload` to the block for `.` and restart CoreDNS once, {MANUAL}"
    ]


def reload_seconds(text: str, files: Files = NO_FILES) -> int:
    """How long CoreDNS's `reload` may take to see a changed file: its interval and its jitter."""
    found = [30.0, 15.0]
    with contextlib.suppress(UnsupportedCorefileError):
        for piece in root_block.root(text, files).find("reload")[:1]:
            for at, value in enumerate(piece.stanza.values[:2]):
                seconds = _duration(value)
                found[at] = found[at] if seconds is None else seconds
    return math.ceil(found[0] + min(found[1], found[0] / 2))  # so CoreDNS limits the jitter


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def _duration(text: str) -> float | None:
    """A duration as Go writes it, 1m30s, in seconds; None where it is none."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _is_for_root(zones: tuple[corefile.Token, ...]) -> bool:
    """Whether a plugin's zones, which are the server block's where it names none, have `.`."""
    if not zones:
        return True
    for token in zones:
        try:
            if any(address.zone == "." for address in corefile.parse_key(token)):
                return True
        except corefile.CorefileError:
            continue
    return False


def _words(stanza: corefile.Stanza) -> list[str]:
    words = [*stanza.values]
    for option in stanza.body or ():
        words += [option.name.text, *_words(option)]
    return words
