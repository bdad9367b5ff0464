"""Removes from a bug report what belongs to others: client addresses, and names that they ask for.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from nat64_operator.kubectl.exec_output import Json

OURS = "NAT64_"
"""Prefixes of our own environment variables. The values of others may be secrets."""
HIDDEN = "(left out)"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_ADDRESS = re.compile(
    r"(?<![\w:.])(?P<address>(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f:.]*|\d{1,3}(?:\.\d{1,3}){3})"
    r"(?P<length>/\d{1,3})?(?![\w])"
)
_QUESTION = re.compile(r'(?P<before>"[A-Z0-9]+ [A-Z]+ )(?P<name>\S+)(?P<after> (?:udp|tcp|tls)\b)')
"""A question in the log of CoreDNS and of our sidecars: "AAAA IN name. udp ...". """


class Redactor:
    """Replaces each address and each name that was asked for by a word, always the same one."""

    def __init__(self, known: Iterable[str]) -> None:
        """`known` are texts of the cluster's configuration: addresses in them may be shown."""
        self._kept: set[IPv4Address | IPv6Address] = set()
        for text in known:
            self._kept |= {found for _, found, _ in _addresses(text)}
        self._words: dict[object, str] = {}

    def text(self, text: str) -> str:
        """A text without the addresses and names of others."""
        parts, at = [], 0
        for match, address, length in _addresses(text):
            parts += [text[at : match.start()], self._shown(match, address, length)]
            at = match.end()
        return _QUESTION.sub(self._question, "".join([*parts, text[at:]]))

    def _shown(self, match: re.Match[str], address: IPv4Address | IPv6Address, length: str) -> str:
        special = (
            address.is_loopback
            or address.is_unspecified
            or address.is_link_local
            or address.is_multicast
        )
        network = length and int(length[1:]) < address.max_prefixlen
        if special or network or address in self._kept:
            return match.group()
        raw = match["address"]
        return (
            self._word(address, "address")
            + raw[len(raw.rstrip(".:")) :] * (not raw.endswith("::"))
            + (length or "")
        )

    def _question(self, match: re.Match[str]) -> str:
        name = match["name"].lower().rstrip(".")
        return match["before"] + self._word(name, "name") + match["after"]

    def _word(self, what: object, kind: str) -> str:
        return self._words.setdefault(what, f"<{kind}-{len(self._words) + 1}>")


def clean(obj: Json) -> Json:
    """An object without bookkeeping, and without possible secrets."""
    metadata = dict(obj.get("metadata") or {})
    metadata.pop("managedFields", None)
    annotations = dict(metadata.get("annotations") or {})
    if annotations.pop(LAST_APPLIED, None) is not None:
        metadata["annotations"] = annotations
    return {**_without_values(obj), "metadata": metadata}


def _without_values(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_values(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _without_values(inner) for key, inner in value.items()}
    if isinstance(value.get("env"), list):
        found["env"] = [
            {**entry, "value": HIDDEN}
            if "value" in entry and not str(entry.get("name", "")).startswith(OURS)
            else entry
            for entry in value["env"]
        ]
    return found


def _addresses(
    text: str,
) -> Iterable[tuple[re.Match[str], IPv4Address | IPv6Address, str]]:
    for match in _ADDRESS.finditer(text):
        raw = match["address"]
        for candidate in (raw, raw.rstrip("."), raw.rstrip(".:")):
            try:
                yield match, ip_address(candidate), match["length"] or ""
            except ValueError:
                continue
            break
