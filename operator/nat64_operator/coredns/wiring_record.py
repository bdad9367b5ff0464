"""The record of what we did to a Corefile, kept in a ConfigMap of our own.

It isn't a comment in the Corefile or an annotation beside it, because a kubeadm migration rewrites
that object as a whole.
"""

from __future__ import annotations

import enum
import json
from typing import Any, Self

import msgspec

from nat64_dataplane import corefile
from nat64_operator.api.meta import GROUP, Object
from nat64_operator.api.policy import Mode
from nat64_operator.render import names
from nat64_operator.render.manifest import config_map
from nat64_operator.settings import Settings

POLICY_LABEL = f"{GROUP}/policy"


class State(enum.Enum):
    """The state of an edit."""

    APPLYING = "Applying"
    """Recorded; written now or next; CoreDNS has not answered through the sidecars yet."""
    CONFIRMED = "Confirmed"
    """CoreDNS has answered through the sidecars."""
    ROLLED_BACK = "RolledBack"
    """CoreDNS did not answer through the sidecars in time; the original is restored."""
    STEPPED_BACK = "SteppedBack"
    """Somebody else restored the original several times; the file is left to them for now."""
    DRAINING = "Draining"
    """The original is restored; CoreDNS may not have read it yet, so the sidecars must stay."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One Corefile, or one file that it imports: before and after."""

    namespace: str
    config_map: str
    key: str = "Corefile"
    mode: Mode = Mode.FORWARD
    gateway: str = ""
    """Whose sidecars are named in it."""
    prefix: str = ""
    """What they synthesize under."""
    original: str
    """The whole file without our part; it follows what others change around our part."""
    applied: str
    """The whole file as we wrote it."""
    state: State
    since: float
    """When `state` began, in seconds since 1970."""
    over: str = ""
    """The resourceVersion that the Corefile had when it was written."""
    made: bool = False
    """Whether there was no such ConfigMap before, so that it is deleted afterwards."""
    reverts: int = 0
    """How often others have restored the original since the edit last stayed for long."""
    confirmed: bool = False
    """Whether it was ever confirmed: an edit that has worked is not undone because of one bad
    minute."""
    resolved: bool = False
    """Whether names that need an upstream resolved just before it was written. If they don't
    resolve after it, the edit is the cause."""
    harmed: bool = False
    """Whether it was undone because names no longer resolved."""
    suspected: float = 0.0
    """When, while confirmed, names were first seen not to resolve because of us; 0 for not."""
    failures: int = 0
    """How often it was undone, by us or by others, since it last stayed for long."""
    note: str = ""

    @classmethod
    def read(cls, obj: Object) -> Self | None:
        """Read it; None if somebody made it unreadable, which counts as no record."""
        data = obj.get("data") or {}
        try:
            state = json.loads(data["state"])
            return msgspec.convert(
                {**state, "original": data["original"], "applied": data["applied"]}, cls
            )
        except (KeyError, TypeError, ValueError, msgspec.ValidationError):
            return None

    @classmethod
    def read_backups(cls, obj: Object) -> dict[str, Self]:
        """The records in a backup, by policy; unreadable ones are left out."""
        data, found = obj.get("data") or {}, {}
        for policy in (key.removesuffix(".state") for key in data if key.endswith(".state")):
            parts = {
                part: data.get(f"{policy}.{part}") for part in ("original", "applied", "state")
            }
            record = cls.read({"data": parts})
            if record is not None:
                found[policy] = record
        return found

    def backup(self, policy: str) -> dict[str, str]:
        """The keys of the backup."""
        return {
            f"{policy}.original": self.original,
            f"{policy}.applied": self.applied,
            f"{policy}.state": self._state(),
        }

    def _state(self) -> str:
        fields = msgspec.to_builtins(self)
        rest = {key: v for key, v in fields.items() if key not in ("original", "applied")}
        return json.dumps(rest, sort_keys=True)

    def manifest(self, policy: str, settings: Settings) -> dict[str, Any]:
        """The ConfigMap that holds it."""
        texts = {"original": self.original, "applied": self.applied}
        hashes = {
            "originalHash": corefile.content_hash(self.original),
            "appliedHash": corefile.content_hash(self.applied),
        }
        return config_map(
            names.wiring_record(policy),
            settings.namespace,
            {**names.common_labels(), POLICY_LABEL: policy},
            {**texts, **hashes, "state": self._state()},
        )
