"""How to remove our part from a Corefile: exactly, or left to others if the part is theirs now.

Pure, like `wiring`. Our part is found by its own words, so that a file which has become one that we
would not edit can still be restored.
"""

from __future__ import annotations

from nat64_operator.coredns import corefile_edits
from nat64_operator.coredns.corefile_edits import Site
from nat64_operator.coredns.wiring_case import ASK_SECONDS, Case, Step, replaced
from nat64_operator.coredns.wiring_record import Record, State
from nat64_operator.errors import UnsupportedCorefileError


def unwire(case: Case) -> Step:
    """Remove our part from the Corefile exactly, and leave to others what is theirs."""
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
        original = corefile_edits.find(record.mode, record.original)
        applied = corefile_edits.find(record.mode, record.applied)
        current = corefile_edits.find_ours(record.mode, file.text, applied)
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
    """The Corefile has nothing of ours; the record is deleted once CoreDNS has read it too. Until
    then the gateway's sidecars stay: an address that is gone costs every query a timeout.
    """
    done = Step(True, "Restored", message, forget=True)
    if not record.confirmed:
        return done
    if record.state is not State.DRAINING:
        draining = replaced(record, state=State.DRAINING, since=case.now)
        return done._replace(forget=False, store=draining, ask=True, wake=ASK_SECONDS)
    answer = case.answer_since(record.since)
    if (answer is not None and answer.clear) or case.since(record) > case.settings.drain_seconds:
        return done
    return done._replace(forget=False, ask=True, wake=ASK_SECONDS)


def _unwire_unrecorded(case: Case) -> Step:
    """Somebody deleted the record. Our part can still be found by its words."""
    clean = Step(True, "NotWired", "the Corefile has nothing of ours", forget=True)
    file, edit = case.file, case.edit
    if not file.exists or edit is None:
        return clean
    try:
        current = corefile_edits.find(file.mode, file.text)
    except UnsupportedCorefileError:
        return clean
    if not edit.names_us(current):
        return clean
    restored = edit.without(current)
    if restored is None:
        return clean._replace(
            warning=f"there is no record of what {edit.what} of {file.where} was before, and it "
            "names no other upstream than the sidecars: set it by hand"
        )
    return Step(False, "Restoring", f"removing our part from {file.where}", write=restored)


def _short(site: Site) -> str:
    return " ".join(site.text.split())[:200]
