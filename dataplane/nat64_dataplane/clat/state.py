"""What the agent knows of the node's pods, for reports and metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from nat64_dataplane.clat.plan import EXPLAINED, LeftAlone

MOST_PODS = 4096


class PodStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One pod, or another network namespace that the runtime has mounted."""

    netns: str
    """The mount's file name."""
    state: Literal["SetUp", "LeftAlone", "Failed"]
    namespace: str = ""
    """Of the pod, where the runtime's data says so; likewise `name`."""
    name: str = ""
    address: str = ""
    """The IPv6 address that its IPv4 packets leave from; if it is set up."""
    reason: str = ""
    message: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What `status.json` holds."""

    prefix: str | None
    """None: the config has no CLAT, and nothing is set up."""
    config_hash: str
    ready: bool
    reason: str
    set_up: int
    left_alone: dict[str, int]
    failed: dict[str, int]
    pods: tuple[PodStatus, ...]


def without_clients(status: Status) -> Status:
    """The same without whose the pods are: the probes' address answers everybody."""
    pods = tuple(
        msgspec.structs.replace(pod, namespace="", name="", address="", message="")
        for pod in status.pods
    )
    return msgspec.structs.replace(status, pods=pods)


@dataclass
class State:
    """Changed by the agent, read by reports."""

    pods: dict[str, PodStatus] = field(default_factory=dict)
    """By the mount's file name."""
    failures: Counter[str] = field(default_factory=Counter)
    """Attempts that failed, by reason, since the agent started."""
    repairs: Counter[str] = field(default_factory=Counter)
    """Parts that were made anew, by part."""
    ready: bool = False
    """Whether every pod of the node has been looked at once."""
    reason: str = "Starting"
    config_error: str = ""

    def status(self, prefix: str | None, config_hash: str) -> Status:
        """A snapshot."""
        ordered = sorted(self.pods.values(), key=lambda pod: (pod.state, pod.netns))
        return Status(
            prefix=prefix,
            config_hash=config_hash,
            ready=self.ready,
            reason=self.config_error or self.reason,
            set_up=sum(pod.state == "SetUp" for pod in ordered),
            left_alone=dict(Counter(pod.reason for pod in ordered if pod.state == "LeftAlone")),
            failed=dict(Counter(pod.reason for pod in ordered if pod.state == "Failed")),
            pods=tuple(ordered[:MOST_PODS]),
        )


def explain(reason: LeftAlone) -> str:
    """Why a pod is left alone, for a person."""
    return EXPLAINED[reason]
