"""The text that CoreDNS uses, as observed: one key of a ConfigMap, and who else writes it."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from nat64_operator.api.meta import Object
from nat64_operator.api.policy import Mode
from nat64_operator.settings import FIELD_MANAGER

COREFILE = "Corefile"


class File(NamedTuple):
    """One key of a ConfigMap."""

    namespace: str
    name: str
    key: str
    mode: Mode
    """How it is changed."""
    text: str
    """Empty where the key isn't there."""
    resource_version: str
    """Empty where the ConfigMap isn't there."""
    declared_by: str | None = None
    """The field manager that declares the whole key by server-side apply: a GitOps tool."""
    left: tuple[dict[str, Any], ...] | None = None
    """The managed fields without our own, where a write of ours has made us an owner of the key."""
    last_writer: str | None = None
    """The last other field manager that wrote the key."""

    @classmethod
    def of(cls, obj: Object | None, place: tuple[str, str, str], mode: Mode) -> Self:
        """Read a ConfigMap's key."""
        namespace, name, key = place
        if obj is None:
            return cls(namespace, name, key, mode, "", "")
        declared = writer = None
        entries = obj["metadata"].get("managedFields") or []
        for entry in sorted(entries, key=lambda e: str(e.get("time") or "")):
            if _owns(entry, key) and entry.get("manager") != FIELD_MANAGER:
                writer = entry.get("manager")
                if entry.get("operation") == "Apply":
                    declared = writer
        text = (obj.get("data") or {}).get(key) or ""
        version = obj["metadata"]["resourceVersion"]
        ours = [e for e in entries if e.get("manager") == FIELD_MANAGER and _owns(e, key)]
        left = tuple(e for e in entries if e not in ours) if ours else None
        return cls(namespace, name, key, mode, text, version, declared, left, writer)

    @property
    def exists(self) -> bool:
        """Whether there is something to change. A file of our own is created."""
        return self.mode is Mode.IMPORT or bool(self.resource_version)

    @property
    def where(self) -> str:
        """For messages."""
        extra = "" if self.key == COREFILE else f" ({self.key})"
        return f"ConfigMap {self.namespace}/{self.name}{extra}"

    @property
    def writer(self) -> str:
        """Who else wrote it last, for messages."""
        return self.last_writer or "someone"


def _owns(entry: dict[str, Any], key: str) -> bool:
    return f"f:{key}" in ((entry.get("fieldsV1") or {}).get("f:data") or {})
