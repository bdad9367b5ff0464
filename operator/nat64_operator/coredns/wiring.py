"""What to do next about a Corefile, from what it says, what we remember, and what CoreDNS answers.

Pure: `wire` and `unwire` return one `Step`. Each step leaves the cluster in a state from which the
next call goes on, whoever makes it: the record is stored before the Corefile is written, so an
operator that dies between the two has lost nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from nat64_operator.api.policy import Mode
from nat64_operator.coredns import edits, hazards
from nat64_operator.coredns.edits import Edit, Site
from nat64_operator.coredns.file import File
from nat64_operator.coredns.record import Record, State
from nat64_operator.coredns.root import NO_FILES, Files
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.settings import Settings

MAX_REVERTS = 3
"""How often we write our part again before we take it that someone means to have it otherwise."""
ASK_SECONDS = 3


class Answer(NamedTuple):
    """What the cluster's DNS said when it was asked for an address that only we synthesize."""

    synthesized: bool
    detail: str
    asked: float
    clear: bool = False
    """It answers, and nothing of it is synthesized."""
    unknowable: bool = False
    """It answers, but doesn't know the name's IPv4 addresses, so nobody could synthesize."""


class Step(NamedTuple):
    """What to do now, and where things stand."""

    status: bool | None
    reason: str
    message: str
    store: Record | None = None
    """The record to store before anything else."""
    write: str | None = None
    """The text to write."""
    forget: bool = False
    """Nothing of ours is left in the Corefile: the record can go."""
    ask: bool = False
    """Ask the cluster's DNS, and come back."""
    warning: str = ""
    """For an Event: something was left to a person."""
    wake: float | None = None
    """When to look again, in seconds, if nothing else happens."""


class Case(NamedTuple):
    """All that is known when a Corefile is to be wired, or the wiring taken back."""

    edit: Edit | None
    """What is to be in it; None while the sidecars are not to be used. When unwiring, what to look
    for where the record is lost; None where all that is there is someone's."""
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


def wire(case: Case) -> Step:
    """Bring our part into the Corefile, keep it there, and see that CoreDNS goes by it."""
    file, record = case.file, case.record
    if not file.exists:
        return Step(False, "CorefileNotFound", f"{file.where} does not exist or can't be read")
    if file.declared_by:
        return Step(
            False,
            "CorefileManagedElsewhere",
            f"{file.where} is declared by the field manager {file.declared_by!r}, which would "
            "undo an edit: add the stanza in status.stanza there, and set spec.coreDNS.mode to "
            "Manual",
        )
    try:
        current = edits.find(file.mode, file.text, case.files)
        if record is not None and record.state is not State.DRAINING:
            known = edits.find(file.mode, record.original), edits.find(file.mode, record.applied)
            return _continue(case, record, current, *known)
        if case.edit is None:
            return Step(False, "SidecarsNotReady", f"{_no_sidecar(case)} yet")
        return _begin(case, case.edit, current)
    except UnsupportedCorefileError as error:
        return Step(False, "CorefileUnsupported", f"{file.where}: {error}")


def unwire(case: Case) -> Step:
    """Take our part out of the Corefile again, exactly, or leave to others what is theirs."""
    file, record = case.file, case.record
    if record is None:
        return _unwire_unrecorded(case)
    where = file.where
    done = _drain(case, record, f"{where} is as it was")
    if not file.exists:
        return done._replace(message=f"{where} does not exist any more", forget=True, store=None)
    if record.state is State.DRAINING or file.text == record.original:
        return done
    if file.text == record.applied:
        return Step(False, "Restoring", f"restoring {where}", write=record.original)
    try:
        original = edits.find(record.mode, record.original)
        applied = edits.find(record.mode, record.applied)
        current = edits.find_ours(record.mode, file.text, applied)
    except UnsupportedCorefileError as error:
        return done._replace(warning=f"{where} was changed by others and is left as it is: {error}")
    if current.tokens == applied.tokens:
        restored = current.replaced(original.text)
        return Step(False, "Restoring", f"restoring our part of {where}", write=restored)
    if current.tokens == original.tokens:
        return done
    return done._replace(
        warning=f"our part of {where} was changed by {file.writer} and is left as it is: "
        f"`{_short(current)}`; before us it was `{_short(original)}`"
    )


def _drain(case: Case, record: Record, message: str) -> Step:
    """The Corefile has nothing of ours; the record goes once CoreDNS has read it, too. Until then
    the gateway's sidecars stay: an address that is gone costs every query a timeout.
    """
    done = Step(True, "Restored", message, forget=True)
    if not record.confirmed:
        return done
    if record.state is not State.DRAINING:
        draining = _replace(record, state=State.DRAINING, since=case.now)
        return done._replace(forget=False, store=draining, ask=True, wake=ASK_SECONDS)
    answer = case.answer
    heard = answer is not None and answer.asked >= record.since and answer.clear
    if heard or case.now - record.since > case.settings.drain_seconds:
        return done
    return done._replace(forget=False, ask=True, wake=ASK_SECONDS)


def _unwire_unrecorded(case: Case) -> Step:
    """Someone deleted the record. What is ours can still be told by what it says."""
    clean = Step(True, "NotWired", "the Corefile has nothing of ours", forget=True)
    file, edit = case.file, case.edit
    if not file.exists or edit is None:
        return clean
    try:
        current = edits.find(file.mode, file.text)
    except UnsupportedCorefileError:
        return clean
    if not edit.names_us(current):
        return clean
    restored = edit.without(current)
    if restored is None:
        return clean._replace(
            warning=f"the record of what {edit.what} of {file.where} was is lost, and it names no "
            "other upstream than the sidecars: set it by hand"
        )
    return Step(False, "Restoring", f"taking our part out of {file.where}", write=restored)


def _begin(case: Case, edit: Edit, current: Site) -> Step:
    file = case.file
    # Should an edit have outlived its record, the place is taken as it would be without us.
    before = edit.without(current) if edit.names_us(current) else None
    original = current if before is None else edits.find(file.mode, before)
    record = Record(
        namespace=file.namespace,
        config_map=file.name,
        key=file.key,
        mode=file.mode,
        gateway=case.gateway,
        prefix=case.prefix,
        original=original.whole,
        applied=current.replaced(edit.wired(original)),
        state=State.APPLYING,
        since=case.now,
    )
    return _write(case, record, current)


def _continue(case: Case, record: Record, current: Site, original: Site, applied: Site) -> Step:
    ours = current.tokens == applied.tokens
    waiting = case.settings.retry_seconds - (case.now - record.since)
    if record.state in (State.ROLLED_BACK, State.STEPPED_BACK) and waiting > 0:
        restored = current.replaced(original.text) if ours else None
        return Step(False, record.state.value, record.note, write=restored, wake=waiting)
    if ours:
        return _keep(case, record, current, original)
    if case.edit is None:
        return Step(False, "SidecarsNotReady", _no_sidecar(case))
    if current.tokens != original.tokens:
        if case.edit.names_us(current):
            return Step(
                True,
                "EditedByOthers",
                f"{case.file.where}: {case.file.writer} edited {case.edit.what}; it still does "
                "what is wanted and is left as it is",
            )
        original = current
    return _write_again(case, case.edit, record, current, original)


def _keep(case: Case, record: Record, current: Site, original: Site) -> Step:
    """Our part is there: it may be outdated, unconfirmed, or in a file edited around it."""
    if case.edit is not None:
        text = current.replaced(case.edit.wired(original))
        if edits.find(case.file.mode, text).tokens != current.tokens:
            changed = _replace(record, applied=text, state=State.APPLYING, since=case.now)
            return _write(case, changed, current)
    if case.file.text == record.applied:
        return _confirm(case, record, original)
    # What would be restored follows what others changed around our part.
    rebased = _replace(record, applied=case.file.text, original=current.replaced(original.text))
    step = _confirm(case, rebased, original)
    return step if step.store is not None else step._replace(store=rebased)


def _write_again(case: Case, edit: Edit, record: Record, current: Site, original: Site) -> Step:
    """Our part is not there: not yet, or someone put the original back."""
    reverts, file = record.reverts, case.file
    if record.state is State.CONFIRMED:
        held = case.now - record.since
        reverts = 1 if held > case.settings.retry_seconds else reverts + 1
    elif record.over != file.resource_version:
        reverts += 1
    if reverts > MAX_REVERTS:
        note = (
            f"{file.writer} keeps undoing the edit of {file.where}: it is left alone for "
            f"{case.settings.retry_seconds // 60} minutes; use the mode Manual, or stop the other"
        )
        stepped = _replace(
            record,
            state=State.STEPPED_BACK,
            since=case.now,
            note=note,
            reverts=0,
            original=current.whole,
        )
        return Step(False, State.STEPPED_BACK.value, note, store=stepped, warning=note)
    again = _replace(
        record,
        original=current.replaced(original.text),
        applied=current.replaced(edit.wired(original)),
        state=State.APPLYING,
        since=record.since if record.state is State.APPLYING else case.now,
        reverts=reverts,
    )
    return _write(case, again, current)


def _confirm(case: Case, record: Record, original: Site) -> Step:
    where, answer = case.file.where, case.answer
    if record.state is State.CONFIRMED:
        return Step(True, "Wired", record.note or f"CoreDNS synthesizes as told in {where}")
    confirmed = _replace(record, state=State.CONFIRMED, since=case.now, confirmed=True, note="")
    fresh = answer if answer is not None and answer.asked >= record.since else None
    if fresh is not None and fresh.synthesized:
        return Step(True, "Wired", f"CoreDNS synthesizes as told in {where}", store=confirmed)
    limit = case.settings.confirm_seconds
    if case.now - record.since < limit or record.confirmed:
        message = f"{where} is written; waiting for CoreDNS to go by it"
        return Step(False, "Confirming", message, ask=True, wake=ASK_SECONDS)
    said = f"; {answer.detail}" if answer is not None else ""
    if fresh is not None and fresh.unknowable and record.mode is not Mode.FORWARD:
        # CoreDNS's own dns64 asks upstream, and this upstream doesn't know the name to ask for.
        note = f"{where} is written, and whether CoreDNS goes by it can't be asked{said}"
        return Step(True, "Wired", note, store=_replace(confirmed, note=note))
    note = (
        f"CoreDNS did not synthesize within {limit} seconds, so {where} was put back{said}. Does "
        "its Corefile have the `reload` plugin, and do the allowed clients include its pods?"
    )
    restored = edits.find(record.mode, record.applied).replaced(original.text)
    back = _replace(record, state=State.ROLLED_BACK, since=case.now, note=note)
    return Step(False, State.ROLLED_BACK.value, note, store=back, write=restored, warning=note)


def _write(case: Case, record: Record, current: Site) -> Step:
    _check(case, record, current)
    version = case.file.resource_version
    record = _replace(record, over=version, made=record.made or not version)
    message = f"writing our part of {case.file.where}"
    return Step(
        False,
        "Writing",
        message,
        store=record,
        write=record.applied,
        ask=True,
        wake=ASK_SECONDS,
    )


def _check(case: Case, record: Record, current: Site) -> None:
    """Nothing may be in the way, and all but our part must read as before."""
    if case.refusal:
        raise UnsupportedCorefileError(case.refusal)
    hazards.check(case.main or case.file.text, case.file.mode, case.files)
    written = edits.find(case.file.mode, record.applied)
    if written.outside() != current.outside():
        raise UnsupportedCorefileError("the edit would change more than its own part")


def _no_sidecar(case: Case) -> str:
    return f"no DNS64 sidecar of NAT64Gateway {case.gateway!r} is ready"


def _short(site: Site) -> str:
    return " ".join(site.text.split())[:200]


def _replace(record: Record, **changes: Any) -> Record:
    return msgspec.structs.replace(record, **changes)
