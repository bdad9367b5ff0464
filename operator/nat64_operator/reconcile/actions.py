"""What can be done to the cluster. A plan is a list of groups; a group stops where it fails."""

from __future__ import annotations

from typing import Any

import msgspec

from nat64_operator.render.manifest import Ref


class Apply(msgspec.Struct, frozen=True):
    """Server-side apply."""

    manifest: dict[str, Any]


class Replace(msgspec.Struct, frozen=True):
    """Replace spec or data as a whole, if the object has not changed since."""

    manifest: dict[str, Any]
    resource_version: str


class Delete(msgspec.Struct, frozen=True):
    """Delete the object that was observed, and no other that took its name since."""

    ref: Ref
    uid: str
    resource_version: str = ""
    """Where it is given, the object must not have changed since, either."""


class SetStatus(msgspec.Struct, frozen=True):
    """Write the status of a custom resource."""

    ref: Ref
    status: dict[str, Any]


class SetFinalizers(msgspec.Struct, frozen=True):
    """Replace a custom resource's finalizers, if it has not changed since."""

    ref: Ref
    finalizers: tuple[str, ...]
    resource_version: str


class WriteCorefile(msgspec.Struct, frozen=True):
    """Write a Corefile, or a file that one imports, if it has not changed since."""

    namespace: str
    name: str
    key: str
    text: str
    """Empty: the key goes."""
    resource_version: str
    """Empty: the ConfigMap is made."""


class Emit(msgspec.Struct, frozen=True):
    """An Event about a custom resource."""

    ref: Ref
    uid: str
    warning: bool
    reason: str
    message: str


Action = Apply | Replace | Delete | SetStatus | SetFinalizers | WriteCorefile | Emit


class Question(msgspec.Struct, frozen=True):
    """Ask the cluster's DNS whether it synthesizes under this prefix; for a policy."""

    policy: str
    prefix: str


class Group(msgspec.Struct, frozen=True):
    """What is done for one object, in order."""

    subject: Ref
    actions: tuple[Action, ...]


class Defect(msgspec.Struct, frozen=True):
    """An object that an error of ours kept from being decided about."""

    subject: Ref
    error: Exception


class Plan(msgspec.Struct, frozen=True):
    """Everything to do now."""

    groups: tuple[Group, ...] = ()
    questions: tuple[Question, ...] = ()
    wake: float | None = None
    """Seconds after which to look again although nothing happened."""
    defects: tuple[Defect, ...] = ()
    """For the log. None of them keeps anything else from being done."""
