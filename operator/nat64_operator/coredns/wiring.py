"""What to do next about a Corefile: from its text, our record, and CoreDNS's answers.

Pure: `wire` and `unwire` return one `Step`. After each step, any operator can make the next call
and continue: the record is stored before the Corefile is written, so nothing is lost if an operator
dies between the two. Nothing is written before the sidecars were asked as CoreDNS would ask them.
"""

from __future__ import annotations

from nat64_operator.coredns import corefile_edits, corefile_hazards
from nat64_operator.coredns.confirmation import WORRIED_SECONDS, confirm, retry_seconds
from nat64_operator.coredns.corefile_edits import Edit, Site
from nat64_operator.coredns.unwiring import unwire
from nat64_operator.coredns.wiring_case import (
    ASK_SECONDS,
    FRESH_SECONDS,
    Answer,
    Case,
    Step,
    replaced,
)
from nat64_operator.coredns.wiring_record import Record, State
from nat64_operator.errors import UnsupportedCorefileError

__all__ = ["Answer", "Case", "Step", "unwire", "wire"]

MAX_REVERTS = 3
"""How often we write our part again before we assume that somebody removes it on purpose."""


def wire(case: Case) -> Step:
    """Write our part into the Corefile, keep it there, and check that CoreDNS uses it."""
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
        if record is not None and record.state is not State.DRAINING:
            original = corefile_edits.find(file.mode, record.original)
            applied = corefile_edits.find(file.mode, record.applied)
            current = corefile_edits.find_ours(file.mode, file.text, applied, case.files)
            return _continue(case, record, current, original, applied)
        current = corefile_edits.find(file.mode, file.text, case.files)
        if case.edit is None:
            return Step(False, "SidecarsNotReady", f"{_no_sidecar(case)} yet")
        return _begin(case, case.edit, current)
    except UnsupportedCorefileError as error:
        return Step(False, "CorefileUnsupported", f"{file.where}: {error}")


def _begin(case: Case, edit: Edit, current: Site) -> Step:
    file = case.file
    # If an edit has outlived its record, this is the place as it would be without us.
    before = edit.without(current) if edit.names_us(current) else None
    original = current if before is None else corefile_edits.find(file.mode, before)
    record = Record(
        namespace=file.namespace,
        config_map=file.name,
        key=file.key,
        mode=file.mode,
        gateway=case.gateway,
        prefix=case.prefix,
        original=original.whole,
        applied=current.replaced(edit.cautious().wired(original)),
        state=State.APPLYING,
        since=case.now,
    )
    return _write_if_fit(case, record, current)


def _continue(case: Case, record: Record, current: Site, original: Site, applied: Site) -> Step:
    ours = current.tokens == applied.tokens
    waiting = retry_seconds(case, record) - case.since(record)
    edited = record.state is State.ROLLED_BACK and not ours and case.file.text != record.original
    left = record.state in (State.ROLLED_BACK, State.STEPPED_BACK) and not edited
    if left and waiting > 0:
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
        edit = case.edit if record.confirmed else case.edit.cautious()
        text = current.replaced(edit.wired(original))
        if corefile_edits.find(case.file.mode, text).tokens != current.tokens:
            changed = replaced(record, applied=text, state=State.APPLYING, since=case.now)
            return _write(case, changed, current)
    if case.file.text == record.applied:
        return confirm(case, record, original)
    # The text to restore follows what others have changed around our part.
    rebased = replaced(record, applied=case.file.text, original=current.replaced(original.text))
    step = confirm(case, rebased, original)
    return step if step.store is not None else step._replace(store=rebased)


def _write_again(case: Case, edit: Edit, record: Record, current: Site, original: Site) -> Step:
    """Our part is not there: not yet, or somebody restored the original."""
    reverts, failures, file = record.reverts, record.failures, case.file
    if record.state is State.CONFIRMED:
        held = case.since(record) > case.settings.retry_seconds
        reverts, failures = (1, 0) if held else (reverts + 1, failures)
    elif record.state is State.APPLYING and record.over != file.resource_version:
        reverts += 1
    if reverts > MAX_REVERTS:
        waits = replaced(record, failures=failures + 1)
        minutes = round(retry_seconds(case, waits) / 60)
        note = (
            f"{file.writer} keeps undoing the edit of {file.where}: it is left alone for "
            f"{minutes} minutes; use the mode Manual, or stop the other writer"
        )
        stepped = replaced(
            waits,
            state=State.STEPPED_BACK,
            since=case.now,
            note=note,
            reverts=0,
            original=current.whole,
        )
        return Step(False, State.STEPPED_BACK.value, note, store=stepped, warning=note)
    wanted = edit if record.confirmed else edit.cautious()
    again = replaced(
        record,
        original=current.replaced(original.text),
        applied=current.replaced(wanted.wired(original)),
        state=State.APPLYING,
        since=record.since if record.state is State.APPLYING else case.now,
        reverts=reverts,
        failures=failures,
    )
    return _write_if_fit(case, again, current)


def _write_if_fit(case: Case, record: Record, current: Site) -> Step:
    """Write, if the sidecars have just answered as CoreDNS will ask them; else ask them first."""
    _check(case, record, current)
    answer = case.answer
    ask = Step(
        False,
        "AskingSidecars",
        f"asking the sidecars before {case.file.where} is written",
        ask=True,
        probe=True,
        wake=ASK_SECONDS,
    )
    if answer is None or not answer.probed or case.now - answer.asked > FRESH_SECONDS:
        return ask
    if answer.unfit:
        message = f"{case.file.where} is not written: {answer.unfit}"
        return ask._replace(reason="SidecarsUnfit", message=message, wake=WORRIED_SECONDS)
    return _write(case, replaced(record, resolved=not answer.failure), current)


def _write(case: Case, record: Record, current: Site) -> Step:
    _check(case, record, current)
    version = case.file.resource_version
    record = replaced(record, over=version, made=record.made or not version, harmed=False)
    return Step(
        False,
        "Writing",
        f"writing our part of {case.file.where}",
        store=record,
        write=record.applied,
        ask=True,
        wake=ASK_SECONDS,
    )


def _check(case: Case, record: Record, current: Site) -> None:
    """Check that nothing prevents the edit, and that everything but our part stays the same."""
    if case.refusal:
        raise UnsupportedCorefileError(case.refusal)
    corefile_hazards.check(case.main or case.file.text, case.file.mode, case.files)
    written = corefile_edits.find(case.file.mode, record.applied)
    if written.outside() != current.outside():
        raise UnsupportedCorefileError("the edit would change more than its own part")


def _no_sidecar(case: Case) -> str:
    return f"no DNS64 sidecar of NAT64Gateway {case.gateway!r} is ready"
