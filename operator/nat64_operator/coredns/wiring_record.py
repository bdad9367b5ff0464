"""What we did to a Corefile, kept in a ConfigMap of our own.

Not in the Corefile as a comment and not as an annotation beside it: a kubeadm migration rewrites
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
    """Where an edit stands."""

    APPLYING = "Applying"
    """Recorded; written now or next; CoreDNS has not answered through the sidecars yet."""
    CONFIRMED = "Confirmed"
    """CoreDNS has answered through the sidecars."""
    ROLLED_BACK = "RolledBack"
    """CoreDNS did not answer through the sidecars in time; the original is back."""
    STEPPED_BACK = "SteppedBack"
    """Someone else put the original back several times; it is theirs for now."""
    DRAINING = "Draining"
    """The original is back; CoreDNS may not have read it yet, so the sidecars must stay."""


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
    """The whole file as it would be without us; follows what others change around our line."""
    applied: str
    """The whole file as we wrote it."""
    state: State
    since: float
    """When `state` began, in seconds since 1970."""
    over: str = ""
    """The resourceVersion that the Corefile had when it was written."""
    made: bool = False
    """Whether there was no such ConfigMap before, so that none is left behind, either."""
    reverts: int = 0
    """How often others have put the original back since it last held for long."""
    confirmed: bool = False
    """Whether it was ever confirmed: what has worked before is not put back by a bad minute."""
    resolved: bool = False
    """Whether names that need an upstream resolved just before it was written: if they then don't,
    that is our doing."""
    harmed: bool = False
    """Whether it was put back because names no longer resolved."""
    suspected: float = 0.0
    """When, while confirmed, names were first seen not to resolve because of us; 0 for not."""
    failures: int = 0
    """How often it was put back, or fought over, since it last held for long."""
    note: str = ""

    @classmethod
    def read(cls, obj: Object) -> Self | None:
        """Read it; None where someone made it unreadable, which is as if it weren't there."""
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
        """The records in a backup, by policy; what someone made unreadable isn't there."""
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
