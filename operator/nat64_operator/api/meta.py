"""The parts of every object: identity, age, deletion, and a spec that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self, TypeAlias, TypeVar

import msgspec

from nat64_operator.errors import InvalidObjectError

GROUP = "nat64-operator.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

Object: TypeAlias = Mapping[str, Any]
"""An object as the API server gives it."""


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """The part of `metadata` that decisions depend on."""

    name: str
    uid: str = ""
    generation: int = 0
    created: str = ""
    deleted: float | None = None
    """When its deletion was requested, in seconds since 1970."""
    finalizers: tuple[str, ...] = ()
    resource_version: str = ""

    @classmethod
    def of(cls, obj: Object) -> Self:
        """Read it from an object as the API server gives it."""
        metadata = obj["metadata"]
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 0),
            created=metadata.get("creationTimestamp") or "",
            deleted=_seconds(metadata.get("deletionTimestamp")),
            finalizers=tuple(metadata.get("finalizers") or ()),
            resource_version=metadata.get("resourceVersion", ""),
        )

    @property
    def deleting(self) -> bool:
        """Whether it is being deleted."""
        return self.deleted is not None

    @property
    def age_order(self) -> tuple[str, str]:
        """Sorts the older object first, and objects of the same second by name."""
        return self.created, self.name


def _seconds(time: str | None) -> float | None:
    return datetime.fromisoformat(time).timestamp() if time else None


class Resource(msgspec.Struct, frozen=True):
    """The parts of every custom resource, even if its spec can't be read."""

    meta: Meta
    status: dict[str, Any]
    kind: str

    @property
    def name(self) -> str:
        """The object's name."""
        return self.meta.name


class Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A section of a spec. Unknown fields are ignored: the API server has refused misspelt ones, so
    another version has stored them.
    """


S = TypeVar("S", bound=Spec)


def read_spec(obj: Object, shape: type[S]) -> S:
    """The spec of an object, with defaults filled in. Raises InvalidObjectError, which names the
    field, if the spec has another shape.
    """
    try:
        return msgspec.convert(obj.get("spec") or {}, shape)
    except msgspec.ValidationError as error:
        raise InvalidObjectError(f"spec: {error}") from error
