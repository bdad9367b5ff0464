"""What to do next about a Corefile, from what it says, what we remember, and what CoreDNS answers.

Pure: `wire` and `unwire` return one `Step`. Each step leaves the cluster in a state from which the
next call goes on, whoever makes it: the record is stored before the Corefile is written, so an
operator that dies between the two has lost nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from nat64_operator.api.meta import Object
from nat64_operator.api.policy import CoreDNS
from nat64_operator.coredns import line
from nat64_operator.coredns.line import Line
from nat64_operator.coredns.record import Record, State
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.settings import FIELD_MANAGER, Settings

KEY = "Corefile"
MAX_REVERTS = 3
"""How often we write our line again before we take it that someone means to have it otherwise."""


class File(NamedTuple):
    """CoreDNS's ConfigMap as observed."""

    namespace: str
    name: str
    text: str
    resource_version: str
    declared_by: str | None
    """The field manager that declares the whole key by server-side apply: a GitOps tool."""
    last_writer: str | None
    """The last other field manager that wrote the key."""

    @classmethod
    def of(cls, obj: Object) -> File:
        """Read the object."""
        declared = writer = None
        entries = obj["metadata"].get("managedFields") or []
        for entry in sorted(entries, key=lambda e: str(e.get("time") or "")):
            owns = f"f:{KEY}" in ((entry.get("fieldsV1") or {}).get("f:data") or {})
            if owns and entry.get("manager") != FIELD_MANAGER:
                writer = entry.get("manager")
                if entry.get("operation") == "Apply":
                    declared = writer
        text = (obj.get("data") or {}).get(KEY) or ""
        metadata = obj["metadata"]
        return cls(
            metadata["namespace"],
            metadata["name"],
            text,
            metadata["resourceVersion"],
            declared,
            writer,
        )


class Answer(NamedTuple):
    """What the cluster's DNS said when it was asked for an address that only we synthesize."""

    synthesized: bool
    detail: str
    asked: float


class Step(NamedTuple):
    """What to do now, and where things stand."""

    status: bool | None
    reason: str
    message: str
    store: Record | None = None
    """The record to store before anything else."""
    write: str | None = None
    """The Corefile to write."""
    forget: bool = False
    """Nothing of ours is left in the Corefile: the record can go."""
    ask: bool = False
    """Ask the cluster's DNS, and come back."""
    warning: str = ""
    """For an Event: something was left to a person."""
    wake: float | None = None
    """When to look again, in seconds, if nothing else happens."""


class Case(NamedTuple):
    """All that is known when a Corefile is to be wired."""

    spec: CoreDNS
    address: str | None
    """Where the sidecars answer; None while they are not to be used."""
    file: File | None
    record: Record | None
    answer: Answer | None
    now: float
    settings: Settings

    @property
    def where(self) -> str:
        """The ConfigMap, for messages."""
        return f"ConfigMap {self.spec.namespace}/{self.spec.config_map_name}"

    @property
    def writer(self) -> str:
        """Who else wrote the Corefile last, for messages."""
        return (self.file.last_writer if self.file else None) or "someone"


def wire(case: Case) -> Step:
    """Bring the sidecars into the Corefile, keep them there, and see that CoreDNS uses them."""
    where, file, record = case.where, case.file, case.record
    if file is None:
        return Step(False, "CorefileNotFound", f"{where} does not exist or can't be read")
    if file.declared_by:
        return Step(
            False,
            "CorefileManagedElsewhere",
            f"{where} is declared by the field manager {file.declared_by!r}, which would undo an "
            "edit: add the stanza in status.stanza there, and set spec.coreDNS.mode to Manual",
        )
    try:
        current = line.find(file.text)
    except UnsupportedCorefileError as error:
        return Step(False, "CorefileUnsupported", f"{where}: {error}")
    if record is not None:
        return _continue(case, current, file, record)
    if case.address is None:
        return Step(False, "SidecarsNotReady", "no DNS64 sidecar is ready yet")
    return _begin(case, current, case.address)


def unwire(file: File | None, record: Record | None, address: str | None = None) -> Step:
    """Take the sidecars out of the Corefile again, exactly, or leave to others what is theirs."""
    if record is None:
        return _unwire_unrecorded(file, address)
    where = f"ConfigMap {record.namespace}/{record.config_map}"
    done = Step(True, "Restored", f"the Corefile in {where} is as it was", forget=True)
    if file is None:
        return done._replace(message=f"{where} does not exist any more")
    if file.text == record.original:
        return done
    if file.text == record.applied:
        return Step(False, "Restoring", f"restoring {where}", write=record.original)
    try:
        current = line.find(file.text)
        original = line.find(record.original)
        applied = line.find(record.applied)
    except UnsupportedCorefileError as error:
        return done._replace(warning=f"{where} was changed by others and is left as it is: {error}")
    if current.tokens == applied.tokens:
        restored = current.replaced(original.text)
        return Step(False, "Restoring", f"restoring the line in {where}", write=restored)
    if current.tokens == original.tokens:
        return done
    return done._replace(
        warning=f"{where}: the `forward .` line (line {current.stanza.line}) was changed by "
        f"{file.last_writer or 'someone else'} and is left as it is: "
        f"`{' '.join(current.stanza.values)}`; it was `{' '.join(original.stanza.values)}`"
    )


def _unwire_unrecorded(file: File | None, address: str | None) -> Step:
    """Someone deleted the record. What the line names of ours can still be told by the address."""
    clean = Step(True, "NotWired", "the Corefile has nothing of ours", forget=True)
    if file is None or address is None:
        return clean
    try:
        current = line.find(file.text)
    except UnsupportedCorefileError:
        return clean
    if line.upstream(address) not in current.upstreams:
        return clean
    restored = line.without(current, address)
    if restored is None:
        return clean._replace(
            warning="the record of what the `forward .` line was is lost, and it names no other "
            "upstream than the sidecars: set it by hand"
        )
    return Step(False, "Restoring", "taking the sidecars out of the line", write=restored)


def _begin(case: Case, current: Line, address: str) -> Step:
    # Should an edit have outlived its record, the line is taken as it would be without us.
    unwired = line.without(current, address)
    original = current if unwired is None else line.find(unwired)
    record = Record(
        namespace=case.spec.namespace,
        config_map=case.spec.config_map_name,
        original=original.tree.text,
        applied=_apply(current, original, address, case.spec),
        state=State.APPLYING,
        since=case.now,
    )
    return _write(case, record, current)


def _continue(case: Case, current: Line, file: File, record: Record) -> Step:
    original, applied = line.find(record.original), line.find(record.applied)
    ours = current.tokens == applied.tokens
    waiting = case.settings.retry_seconds - (case.now - record.since)
    if record.state in (State.ROLLED_BACK, State.STEPPED_BACK) and waiting > 0:
        restored = current.replaced(original.text) if ours else None
        return Step(False, record.state.value, record.note, write=restored, wake=waiting)
    if ours:
        return _keep(case, current, file, record, original)
    if case.address is None:
        return Step(False, "SidecarsNotReady", "no DNS64 sidecar is ready")
    if current.tokens != original.tokens:
        if line.upstream(case.address) in current.upstreams:
            return Step(
                True,
                "EditedByOthers",
                f"{case.where}: {case.writer} edited the line; it still names the sidecars and "
                "is left as it is",
            )
        original = current
    return _write_again(case, current, file, record, original)


def _keep(case: Case, current: Line, file: File, record: Record, original: Line) -> Step:
    """Our line is there: it may be outdated, unconfirmed, or in a file edited around it."""
    if case.address is not None:
        text = _apply(current, original, case.address, case.spec)
        if line.find(text).tokens != current.tokens:
            changed = _replace(record, applied=text, state=State.APPLYING, since=case.now)
            return _write(case, changed, current)
    if file.text == record.applied:
        return _confirm(case, record, original)
    # What would be restored follows what others changed around our line.
    rebased = _replace(record, applied=file.text, original=current.replaced(original.text))
    step = _confirm(case, rebased, original)
    return step if step.store is not None else step._replace(store=rebased)


def _write_again(case: Case, current: Line, file: File, record: Record, original: Line) -> Step:
    """Our line is not there: not yet, or someone put the original back."""
    assert case.address is not None, "asked for only with an address"
    reverts = record.reverts
    if record.state is State.CONFIRMED:
        held = case.now - record.since
        reverts = 1 if held > case.settings.retry_seconds else reverts + 1
    elif record.over != file.resource_version:
        reverts += 1
    if reverts > MAX_REVERTS:
        note = (
            f"{case.writer} keeps undoing the edit of {case.where}: it is left alone for "
            f"{case.settings.retry_seconds // 60} minutes; use the mode Manual, or stop the other"
        )
        stepped = _replace(
            record,
            state=State.STEPPED_BACK,
            since=case.now,
            note=note,
            reverts=0,
            original=current.tree.text,
        )
        return Step(False, State.STEPPED_BACK.value, note, store=stepped, warning=note)
    again = _replace(
        record,
        original=current.replaced(original.text),
        applied=_apply(current, original, case.address, case.spec),
        state=State.APPLYING,
        since=record.since if record.state is State.APPLYING else case.now,
        reverts=reverts,
    )
    return _write(case, again, current)


def _confirm(case: Case, record: Record, original: Line) -> Step:
    where, answer = case.where, case.answer
    if record.state is State.CONFIRMED:
        return Step(True, "Wired", f"CoreDNS forwards external names to the sidecars ({where})")
    if answer is not None and answer.asked >= record.since and answer.synthesized:
        confirmed = _replace(record, state=State.CONFIRMED, since=case.now, confirmed=True, note="")
        message = f"CoreDNS forwards external names to the sidecars ({where})"
        return Step(True, "Wired", message, store=confirmed)
    said = f"; it says: {answer.detail}" if answer is not None else ""
    limit = case.settings.confirm_seconds
    if case.now - record.since < limit or record.confirmed:
        message = f"{where} is written; waiting for CoreDNS to answer through the sidecars"
        return Step(False, "Confirming", message, ask=True, wake=3)
    note = (
        f"CoreDNS did not answer through the sidecars within {limit} seconds, so {where} was put "
        f"back{said}. Does its Corefile have the `reload` plugin?"
    )
    restored = line.find(record.applied).replaced(original.text)
    back = _replace(record, state=State.ROLLED_BACK, since=case.now, note=note)
    return Step(False, State.ROLLED_BACK.value, note, store=back, write=restored, warning=note)


def _write(case: Case, record: Record, current: Line) -> Step:
    _check(current, record.applied)
    assert case.file is not None, "only a file that exists is written"
    record = _replace(record, over=case.file.resource_version)
    message = f"writing the `forward .` line of {case.where}"
    return Step(False, "Writing", message, store=record, write=record.applied, ask=True, wake=3)


def _apply(target: Line, original: Line, address: str, spec: CoreDNS) -> str:
    return target.replaced(line.wired(original, address, spec.fail_mode))


def _check(current: Line, text: str) -> None:
    """Whatever else happens, all but our line must read as before."""
    written = line.find(text)
    before = [t.text for t in line.outside(current)]
    after = [t.text for t in line.outside(written)]
    if before != after:  # pragma: no cover - a defect of ours, never to reach a cluster
        raise UnsupportedCorefileError("the edit would change more than the `forward .` line")


def _replace(record: Record, **changes: Any) -> Record:
    return msgspec.structs.replace(record, **changes)
