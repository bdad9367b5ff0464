"""From a Corefile to Settings: the known stanzas, and how they fit together.

Pure except for `from_file`, and for the /etc/resolv.conf that a `forward` may name, which comes
through an argument. All functions raise CorefileError with file, line and what is allowed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nat64_dataplane import corefile
from nat64_dataplane.corefile import CorefileError, Loaded, ServerBlock
from nat64_dataplane.dns64.settings import cache_stanza, dns64_stanza, forward_stanza, small_stanzas
from nat64_dataplane.dns64.settings.forward_stanza import ReadFile
from nat64_dataplane.dns64.settings.stanza_line import Line, zone_problem
from nat64_dataplane.dns64.settings.typed_settings import Server, Settings

FORMS = {
    **small_stanzas.FORMS,
    "cache": cache_stanza.FORM,
    "dns64": dns64_stanza.FORM,
    "forward": forward_stanza.FORM,
}
MANY = frozenset({"forward", "acl", "log", "bind"})
"""Stanzas that may stand more than once in a server block."""


def from_file(path: str | Path) -> Settings:
    """Read the Corefile at `path`. Raises CorefileError; OSError where it can't be read."""
    return from_loaded(corefile.load(path))


def from_text(
    text: str,
    file: str = "Corefile",
    environ: Mapping[str, str] | None = None,
    read_file: ReadFile | None = None,
) -> Settings:
    """Read a Corefile's text. Without `environ` variables are empty; imports come from disk."""
    loaded = corefile.expand(corefile.parse(text, file), environ or {}, corefile.read_files)
    return from_loaded(loaded, read_file)


def from_loaded(loaded: Loaded, read_file: ReadFile | None = None) -> Settings:
    """Check an expanded Corefile and give its Settings. Raises CorefileError."""
    reader = _Reader(read_file or _read_text)
    file = loaded.files[0][0]
    if not loaded.blocks:
        raise CorefileError(file, 1, "no server block: write one, as in `.:53 { ... }`")
    for block in loaded.blocks:
        reader.block(block)
    text = "".join(text for _, text in loaded.files)
    return replace(
        reader.process,
        servers=tuple(reader.servers),
        content_hash=hashlib.sha512(text.encode()).hexdigest(),
    )


def _read_text(path: str) -> str:
    return Path(path).read_text()


@dataclass(slots=True)
class _Reader:
    read_file: ReadFile
    servers: list[Server] = field(default_factory=list)
    process: Settings = field(default_factory=lambda: Settings(servers=()))
    """The settings read so far that are for the whole process."""
    claimed: dict[tuple[str, int], str] = field(default_factory=dict)

    def block(self, block: ServerBlock) -> None:
        """Read one server block; keys with several ports make one server for each port."""
        by_port: dict[int, list[str]] = {}
        for address in block.addresses:
            if address.transport != "dns":
                raise self.error(block, f"{address}: only plain dns:// is served")
            problem = zone_problem(address.zone)
            if problem:
                raise self.error(block, problem)
            by_port.setdefault(address.port, []).append(address.zone)
            if (address.zone, address.port) in self.claimed:
                raise self.error(block, f"{address} is served by two blocks")
            self.claimed[address.zone, address.port] = str(address)
        seen: set[str] = set()
        for stanza in block.stanzas:
            name = stanza.name.text
            if name not in FORMS:
                raise CorefileError(
                    stanza.name.file,
                    stanza.line,
                    f"unknown stanza {name!r}: known are {', '.join(sorted(FORMS))}",
                )
            if name in seen and name not in MANY:
                raise CorefileError(
                    stanza.name.file, stanza.line, f"{name} stands twice in one server block"
                )
            seen.add(name)
        for port, zones in by_port.items():
            server = self.server(block, tuple(dict.fromkeys(zones)), port)
            self.check_addresses(block, server)
            self.servers.append(server)

    def server(self, block: ServerBlock, zones: tuple[str, ...], port: int) -> Server:
        found = {name: [Line(stanza, FORMS[name]) for stanza in block.find(name)] for name in FORMS}
        for line in found["health"]:
            health, lameduck = small_stanzas.read_health(line)
            self.process = replace(self.process, health=health, lameduck=lameduck)
        for line in found["ready"]:
            self.process = replace(self.process, ready=small_stanzas.read_ready(line))
        for line in found["prometheus"]:
            prometheus, runtime = small_stanzas.read_prometheus(line)
            runtime |= self.process.runtime_metrics
            self.process = replace(self.process, prometheus=prometheus, runtime_metrics=runtime)
        for line in found["reload"]:
            self.process = replace(self.process, reload=small_stanzas.read_reload(line))
        for line in found["loop"]:
            line.flag()
        return Server(
            zones=zones,
            port=port,
            addresses=tuple(
                dict.fromkeys(a for line in found["bind"] for a in small_stanzas.read_bind(line))
            ),
            forwards=tuple(forward_stanza.read(line, self.read_file) for line in found["forward"]),
            dns64=next((dns64_stanza.read(line) for line in found["dns64"]), None),
            cache=next((cache_stanza.read(line, zones) for line in found["cache"]), None),
            acls=tuple(small_stanzas.read_acl(line, zones) for line in found["acl"]),
            log=tuple(rule for line in found["log"] for rule in small_stanzas.read_log(line)),
            errors=bool(found["errors"]),
            consolidate=tuple(
                c for line in found["errors"] for c in small_stanzas.read_errors(line)
            ),
            metrics=bool(found["prometheus"]),
            loop=bool(found["loop"]),
        )

    def check_addresses(self, block: ServerBlock, server: Server) -> None:
        """Refuse blocks on one port if only some of them bind addresses: CoreDNS warns of those."""
        for other in self.servers:
            if other.port == server.port and set(other.addresses) != set(server.addresses):
                raise self.error(
                    block, f"blocks on port {server.port} must have the same bind addresses"
                )

    @staticmethod
    def error(block: ServerBlock, problem: str) -> CorefileError:
        return CorefileError(block.keys[0].file, block.line, problem)
