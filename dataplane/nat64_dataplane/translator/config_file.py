"""Reading the translator's config file from disk; `nat64_dataplane.config` has its schema."""

from __future__ import annotations

from pathlib import Path

from nat64_dataplane.config import Config, parse
from nat64_dataplane.errors import ConfigError


def load(path: Path) -> Config:
    """Read the config file. Raises ConfigError, also where there is no such file."""
    return parse(read(path))


def read(path: Path) -> bytes:
    """The file's content. Raises ConfigError where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
