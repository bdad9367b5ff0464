"""Where an agent's config comes from: the config file, and what the node file says of this node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nat64_dataplane import config, node_file
from nat64_dataplane.config import Config
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.node_file import NodeFile
from nat64_dataplane.translator import config_file


class ConfigSource:
    """Both files, read again and again. What is bad changes nothing of what is had from it."""

    def __init__(self, path: Path, nodes: Path | None = None, node: str = "") -> None:
        """Read them. Raises ConfigError where there is no good config file; the node file may
        come later, or be mended.
        """
        self._path, self._nodes, self._node = path, nodes, node
        self._config = config.parse(config_file.read(path))
        self._of_nodes = NodeFile()
        self._seen: tuple[object, ...] = ()
        self.error = ""
        """Why a file's content is not what is had; empty where it is."""
        self.changed()

    @property
    def current(self) -> Config:
        """The config of this node, from the last good content of each file."""
        return node_file.resolve(self._config, self._of_nodes, self._node)

    def changed(self) -> bool:
        """Read what has changed since the last call; returns whether anything has."""
        errors: list[str] = []
        content, nodes = self._read(self._path, errors), self._read(self._nodes, errors)
        seen = content, nodes, *errors
        if seen == self._seen:
            return False
        self._seen = seen
        if content is not None:
            with _noting(errors):
                self._config = config.parse(content)
        if nodes is not None and self._nodes is not None:
            with _noting(errors, f"{self._nodes.name}: "):
                self._of_nodes = node_file.parse(nodes)
        self.error = "; ".join(errors)
        return True

    def _read(self, path: Path | None, errors: list[str]) -> bytes | None:
        with _noting(errors):
            return config_file.read(path) if path else None
        return None


@contextlib.contextmanager
def _noting(errors: list[str], where: str = "") -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        errors.append(f"{where}{error}")
