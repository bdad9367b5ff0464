"""Where an agent's config comes from: the config file, and what the node file says of this node.
And who the nodes of topology Gateway are, by the membership files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

from nat64_dataplane import config, members, node_file
from nat64_dataplane.config import Config
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.node_file import NodeFile
from nat64_dataplane.translator import config_file
from nat64_dataplane.translator.membership import Membership


class ConfigSource:
    """All files, read again and again. What is bad changes nothing of what is had from it."""

    def __init__(
        self,
        path: Path,
        nodes: Path | None = None,
        node: str = "",
        *,
        gateways: Path | None = None,
        routers: Path | None = None,
        node_address: IPv6Address | None = None,
    ) -> None:
        """Read them. Raises ConfigError where there is no good config file; the others may come
        later, or be mended.
        """
        self._path, self._nodes, self._node = path, nodes, node
        self._gateways, self._routers = gateways, routers
        self._config = config.parse(config_file.read(path))
        self._of_nodes = NodeFile()
        self.membership = Membership(node=node, address=node_address)
        """From the last good content of the membership files."""
        self._seen: tuple[object, ...] = ()
        self._marks: tuple[object, ...] = ()
        self.error = ""
        """Why a file's content is not what is had; empty where it is."""
        self.changed()

    @property
    def current(self) -> Config:
        """The config of this node, from the last good content of each file."""
        return node_file.resolve(self._config, self._of_nodes, self._node)

    def touched(self) -> bool:
        """Whether any of the paths leads to another file than at the last call, as after a kubelet
        has updated what it has mounted. A file that is written in place may go unnoticed.
        """
        paths = (self._path, self._nodes, self._gateways, self._routers)
        before, self._marks = self._marks, tuple(_mark(path) for path in paths if path)
        return self._marks != before

    def changed(self) -> bool:
        """Read what has changed since the last call; returns whether anything has."""
        errors: list[str] = []
        content, nodes = self._read(self._path, errors), self._read(self._nodes, errors)
        gateways, routers = self._read(self._gateways, errors), self._read(self._routers, errors)
        seen = content, nodes, gateways, routers, *errors
        if seen == self._seen:
            return False
        self._seen = seen
        if content is not None:
            with _noting(errors):
                self._config = config.parse(content)
        if nodes is not None and self._nodes is not None:
            with _noting(errors, f"{self._nodes.name}: "):
                self._of_nodes = node_file.parse(nodes)
        if gateways is not None and self._gateways is not None:
            with _noting(errors, f"{self._gateways.name}: "):
                parsed = members.parse_gateways(gateways)
                self.membership = replace(self.membership, gateways=parsed)
        if routers is not None and self._routers is not None:
            with _noting(errors, f"{self._routers.name}: "):
                self.membership = replace(self.membership, routers=members.parse_routers(routers))
        self.error = "; ".join(errors)
        return True

    def _read(self, path: Path | None, errors: list[str]) -> bytes | None:
        with _noting(errors):
            return config_file.read(path) if path else None
        return None


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


@contextlib.contextmanager
def _noting(errors: list[str], where: str = "") -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        errors.append(f"{where}{error}")
