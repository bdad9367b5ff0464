"""The input of a decision about a Corefile, and its result: plain values."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from nat64_operator.coredns.corefile_edits import Edit
from nat64_operator.coredns.observed_corefile import File
from nat64_operator.coredns.root_block import NO_FILES, Files
from nat64_operator.coredns.wiring_record import Record, State
from nat64_operator.settings import Settings

ASK_SECONDS = 3
"""How often the cluster's DNS is asked while the operator waits for a change."""
WATCH_SECONDS = 60
"""How often it is asked about a Corefile that is wired and works."""
FRESH_SECONDS = 30
"""The maximum age of the sidecars' answers when a Corefile is written because of them."""


class Answer(NamedTuple):
    """What the cluster's DNS answered, and the sidecars if they were asked too."""

    synthesized: bool
    """Every answer for a name with IPv4 only was an address under the prefix."""
    detail: str
    asked: float
    """When, in seconds since 1970."""
    clear: bool = False
    """It answers, and none of the answers is synthesized."""
    unknowable: bool = False
    """It answers, but doesn't know the name's IPv4 addresses, so nothing could be synthesized."""
    failure: str = ""
    """How it failed for names that need an upstream: an RCODE, or that no reply came. Empty if they
    resolved, and if it doesn't answer at all, which we can't mend."""
    ours: bool = False
    """Whether the failure is known to be ours: sidecars or upstreams, asked directly, do better."""
    probed: bool = False
    """Whether the sidecars were asked as well, as CoreDNS would ask them."""
    unfit: str = ""
    """Why CoreDNS must not be pointed at them; empty if it may."""


class Step(NamedTuple):
    """What to do now, and the state of the edit."""

    status: bool | None
    reason: str
    message: str
    store: Record | None = None
    """The record to store before anything else."""
    write: str | None = None
    """The text to write."""
    forget: bool = False
    """Nothing of ours is left in the Corefile: the record can be deleted."""
    ask: bool = False
    """Ask the cluster's DNS, and come back."""
    probe: bool = False
    """Ask the sidecars, too."""
    warning: str = ""
    """For an Event: a person has to do something."""
    wake: float | None = None
    """When to look again, in seconds, if nothing else happens."""


class Case(NamedTuple):
    """Everything that a decision about a Corefile depends on, to wire it or to restore it."""

    edit: Edit | None
    """The edit to make; None while the sidecars are not to be used. For unwiring: the edit to look
    for if the record is lost; None if everything there may be somebody else's."""
    file: File
    record: Record | None
    answer: Answer | None
    now: float
    settings: Settings
    gateway: str = ""
    prefix: str = ""
    main: str = ""
    """CoreDNS's own Corefile, where the file is another that it imports."""
    files: Files = NO_FILES
    """What the Corefile may import, without what is ours."""
    refusal: str = ""
    """Why the sidecars can't ask as CoreDNS does; empty where they can."""

    def since(self, record: Record) -> float:
        """Seconds since the record's state began."""
        return self.now - record.since

    def answer_since(self, began: float) -> Answer | None:
        """What was answered since then."""
        answer = self.answer
        return answer if answer is not None and answer.asked >= began else None


def replaced(record: Record, **changes: Any) -> Record:
    """A record with other fields."""
    return msgspec.structs.replace(record, **changes)


def put_back(case: Case, record: Record, original: str, note: str, *, harmed: bool) -> Record:
    """The record of an edit that was undone for good reason, and is tried again later."""
    return replaced(
        record,
        state=State.ROLLED_BACK,
        since=case.now,
        note=note,
        original=original,
        harmed=harmed,
        suspected=0.0,
        failures=record.failures + 1,
    )
