"""The actions that change the cluster. A plan is a list of groups; when an action fails, the rest
of its group is left out.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from nat64_operator.render.manifest import Ref


class Apply(msgspec.Struct, frozen=True):
    """Server-side apply."""

    manifest: dict[str, Any]
    resource_version: str = ""
    """If given, the object must not have changed since it was observed."""


class Replace(msgspec.Struct, frozen=True):
    """Replace spec or data as a whole, if the object has not changed since it was observed."""

    manifest: dict[str, Any]
    resource_version: str


class Delete(msgspec.Struct, frozen=True):
    """Delete the object that was observed, and not a later one with the same name."""

    ref: Ref
    uid: str
    resource_version: str = ""
    """If given, the object must not have changed since it was observed, either."""


class SetStatus(msgspec.Struct, frozen=True):
    """Write the status of a custom resource."""

    ref: Ref
    status: dict[str, Any]


class SetFinalizers(msgspec.Struct, frozen=True):
    """Replace a custom resource's finalizers, if it has not changed since it was observed."""

    ref: Ref
    finalizers: tuple[str, ...]
    resource_version: str


class WriteCorefile(msgspec.Struct, frozen=True):
    """Write a Corefile, or a file that it imports, if it has not changed since it was observed."""

    namespace: str
    name: str
    key: str
    text: str
    """Empty to delete the key."""
    resource_version: str
    """Empty to create the ConfigMap."""


class WriteKeys(msgspec.Struct, frozen=True):
    """Write some keys of a ConfigMap and leave the others; None deletes a key."""

    namespace: str
    name: str
    data: dict[str, str | None]
    exists: bool


class Disown(msgspec.Struct, frozen=True):
    """Give up the ownership of fields that a write gave us, so that the owner's next server-side
    apply has no conflict.
    """

    ref: Ref
    managed_fields: tuple[dict[str, Any], ...]
    """The `managedFields` to keep."""
    resource_version: str


class Announce(msgspec.Struct, frozen=True):
    """Annotate a gateway's pods of one role after mounted data has changed. The kubelet then
    rereads the data at once, and not at its next sync, which may be a minute and a half later.
    """

    namespace: str
    gateway: str
    content: str
    """The hash of the data that all these pods mount."""
    by_node: dict[str, str] = msgspec.field(default_factory=dict)
    """A hash of the data of a single node, by the node's name."""
    routers: bool = False
    """Those on nodes that steer. There may be thousands, which takes a while: nobody waits for it,
    and the others do not wait for them.
    """

    @property
    def whose(self) -> str:
        """The key of `World.announced`."""
        return f"{self.gateway}.routers" if self.routers else self.gateway

    def of_node(self, node: str) -> str:
        """The value of a pod's annotation."""
        return "-".join(filter(None, (self.content, self.by_node.get(node))))

    @property
    def whole(self) -> str:
        """A value that changes with any of them."""
        return json.dumps([self.content, self.by_node], sort_keys=True)


class Untaint(msgspec.Struct, frozen=True):
    """Take the taints with a key off a node."""

    node: str
    key: str


class Emit(msgspec.Struct, frozen=True):
    """An Event about a custom resource."""

    ref: Ref
    uid: str
    warning: bool
    reason: str
    message: str


Action = (
    Apply
    | Replace
    | Delete
    | SetStatus
    | SetFinalizers
    | WriteCorefile
    | WriteKeys
    | Disown
    | Announce
    | Untaint
    | Emit
)


class Question(msgspec.Struct, frozen=True):
    """A DNS probe for a policy: whether the cluster's DNS synthesizes under this prefix, and
    whether names that need an upstream resolve.
    """

    policy: str
    prefix: str
    sidecars: tuple[str, ...] = ()
    """Where to ask the sidecars: their Service, then each. Empty if CoreDNS asks none."""
    upstreams: tuple[str, ...] = ()
    """The upstreams that CoreDNS asks without us, to tell their failure from ours."""
    probe: bool = False
    """Ask the sidecars whatever CoreDNS answers, because it is about to be pointed at them."""


class Group(msgspec.Struct, frozen=True):
    """The actions for one object, in order."""

    subject: Ref
    actions: tuple[Action, ...]


class Defect(msgspec.Struct, frozen=True):
    """An object about which no decision could be made, because of a bug in the operator."""

    subject: Ref
    error: Exception


class Plan(msgspec.Struct, frozen=True):
    """Everything to do now, and when to look again."""

    groups: tuple[Group, ...] = ()
    questions: tuple[Question, ...] = ()
    wake: float | None = None
    """Seconds after which the next pass is due without any change."""
    defects: tuple[Defect, ...] = ()
    """For the log. They do not stop the rest of the plan."""
