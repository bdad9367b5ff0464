"""The dataplane's errors. Each says for a person what was given, what is allowed, and where."""

from __future__ import annotations

import re
from typing import Any, Self

import msgspec


class DataplaneError(Exception):
    """The base of every error that the dataplane raises on purpose."""


class ConfigError(DataplaneError):
    """A config was refused. Nothing was changed: the last good one keeps running."""

    @classmethod
    def from_validation(cls, error: msgspec.ValidationError, data: Any) -> Self:
        """Turn msgspec's message, which lacks the value, into field, value and rule."""
        rule, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").lstrip(".")
        if not path:
            return cls(rule)
        value = _value_at(data, path)
        if isinstance(value, dict) or repr(value) in rule:  # the rule names the field and value
            return cls(f"{path}: {rule}")
        return cls(f"{path}: {value!r}: {rule}")


class HostError(DataplaneError):
    """The node can't run this config as it is. `reason` is one CamelCase word for conditions."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BusyError(DataplaneError):
    """Another agent holds the instance."""


def _value_at(data: Any, path: str) -> Any:
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        try:
            data = data[int(index)] if index else data[key]
        except (LookupError, TypeError):
            return None
    return data
