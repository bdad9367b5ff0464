"""What CoreDNS answers with a Corefile that has our part: the edit is confirmed, watched or undone.

Harm means that names no longer resolve. It restores the original at once; if the edit has worked
before, only when a second answer a few seconds later shows the same. A lack of synthesis leaves
everything as it was without us. It restores the original after `confirm_seconds`, and only if
CoreDNS has never synthesized. Pure, like `wiring`.
"""

from __future__ import annotations

from nat64_operator.api.policy import Mode
from nat64_operator.coredns import corefile_edits, corefile_hazards
from nat64_operator.coredns.corefile_edits import Site
from nat64_operator.coredns.wiring_case import (
    ASK_SECONDS,
    WATCH_SECONDS,
    Answer,
    Case,
    Step,
    put_back,
    replaced,
)
from nat64_operator.coredns.wiring_record import Record, State

WORRIED_SECONDS = 10
"""How often the DNS is asked about a wired Corefile while something is wrong."""
KUBELET_SECONDS = 120
"""The kubelet updates a mounted ConfigMap within a minute of its sync and one of its cache."""
MOST_RETRY_SECONDS = 86_400
RELAPSE_SECONDS = 60
"""How long a Corefile that has worked is left alone after its first harm. A node that was down for
a moment is no reason to go without synthesis for long, and the sidecars are asked before each
write."""


def retry_seconds(case: Case, record: Record) -> float:
    """How long a Corefile is left alone after this many failures: twice as long after each."""
    if record.confirmed and record.failures <= 1:
        return float(min(RELAPSE_SECONDS, case.settings.retry_seconds))
    doubled: float = case.settings.retry_seconds * 2.0 ** min(max(record.failures - 1, 0), 30)
    return min(doubled, MOST_RETRY_SECONDS)


def confirm(case: Case, record: Record, original: Site) -> Step:
    """Our part is in the file as we wrote it: find out what CoreDNS answers with it."""
    if record.state is State.CONFIRMED:
        step = _watch(case, record, original)
        current = _of_its_gateway(case, record)
        moved = current != record and step.store is None
        return step._replace(store=current) if moved else step
    where = case.file.where
    confirmed = replaced(
        _of_its_gateway(case, record),
        state=State.CONFIRMED,
        since=case.now,
        confirmed=True,
        note="",
        harmed=False,
    )
    fresh = case.answer_since(record.since)
    if fresh is not None and fresh.failure and record.resolved:
        return _undo(case, record, original, fresh)
    if fresh is not None and fresh.synthesized:
        return Step(True, "Wired", _works(case), store=confirmed, wake=WATCH_SECONDS)
    limit = case.settings.confirm_seconds
    if case.since(record) < limit or record.confirmed:
        return Step(False, "Confirming", _waiting(case, record), ask=True, wake=ASK_SECONDS)
    said = f"; {case.answer.detail}" if case.answer is not None else ""
    if fresh is not None and fresh.unknowable and record.mode is not Mode.FORWARD:
        # CoreDNS's own dns64 asks upstream, and this upstream doesn't know the name to ask for.
        note = f"{where} is written, but CoreDNS can't be asked whether it uses it{said}"
        return Step(True, "Wired", note, store=replaced(confirmed, note=note))
    note = (
        f"CoreDNS did not synthesize within {limit} seconds, so {where} was restored{said}. Check "
        "that nothing that its Corefile imports answers before its `forward .` line, and that "
        f"NetworkPolicies let its pods ask the sidecars. {_again(case, record)}"
    )
    return _roll_back(case, record, original, note, harmed=False)


def _of_its_gateway(case: Case, record: Record) -> Record:
    """The record with the policy's gateway. If it named another one, that gateway is no longer
    asked; it must stay as it is until CoreDNS is seen to use the new text.
    """
    if case.edit is None:
        return record
    return replaced(record, gateway=case.gateway, prefix=case.prefix)


def _watch(case: Case, record: Record, original: Site) -> Step:
    """The operator asks about a wired Corefile for as long as it is wired: the status says what is
    true now.
    """
    answer, now = case.answer, case.now
    worried = answer is not None and not _is_good(answer, record)
    suspicious = answer is not None and bool(answer.failure) and answer.ours
    every = ASK_SECONDS if suspicious else WORRIED_SECONDS if worried else WATCH_SECONDS
    rest = every - (now - answer.asked) if answer is not None else 0.0
    step = Step(True, "Wired", record.note or _works(case), ask=rest <= 0, wake=max(rest, 1.0))
    if record.suspected and not suspicious:
        step = step._replace(store=replaced(_of_its_gateway(case, record), suspected=0.0))
    if answer is None or now - answer.asked > 3 * WATCH_SECONDS or not worried:
        return step
    if suspicious:
        # An edit that has worked for long is not undone because a single answer was lost.
        if 0 < answer.asked - record.suspected <= WATCH_SECONDS:
            return _undo(case, record, original, answer)
        if not record.suspected or answer.asked > record.suspected:
            suspected = replaced(_of_its_gateway(case, record), suspected=answer.asked)
            step = step._replace(store=suspected)
        return step
    if answer.failure:
        return step._replace(
            status=False,
            reason="UpstreamsFail",
            message=f"names that need an upstream don't resolve ({answer.failure}), neither at "
            "CoreDNS nor at the sidecars: their upstreams don't answer",
        )
    return step._replace(
        status=False,
        reason="NotSynthesizing",
        message=f"{case.file.where} has our part, and CoreDNS does not synthesize: {answer.detail}",
    )


def _is_good(answer: Answer, record: Record) -> bool:
    unknowable = answer.unknowable and record.mode is not Mode.FORWARD
    return not answer.failure and (answer.synthesized or unknowable)


def _undo(case: Case, record: Record, original: Site, answer: Answer) -> Step:
    """Names that resolved before no longer do."""
    note = (
        f"names that resolved before did not with our part in {case.file.where} "
        f"({answer.failure}), so it was restored at once. Check that CoreDNS's pods may ask the "
        f"sidecars, and that these reach their upstreams. {_again(case, record)}"
    )
    return _roll_back(case, record, original, note, harmed=True)


def _roll_back(case: Case, record: Record, original: Site, note: str, *, harmed: bool) -> Step:
    mode, text = record.mode, case.file.text or record.applied
    restored = corefile_edits.find_ours(
        mode, text, corefile_edits.find(mode, record.applied)
    ).replaced(original.text)
    back = put_back(case, record, restored, note, harmed=harmed)
    return Step(
        False, State.ROLLED_BACK.value, note, store=back, write=restored, warning=note, wake=1.0
    )


def _again(case: Case, record: Record) -> str:
    seconds = retry_seconds(case, replaced(record, failures=record.failures + 1))
    return f"It is tried again after {_span(seconds)}, or when the Corefile is changed"


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes == 1:
        return "a minute"
    return f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"


def _works(case: Case) -> str:
    return f"CoreDNS synthesizes as {case.file.where} says"


def _waiting(case: Case, record: Record) -> str:
    """The sidecars are ready before anything is written, so this is CoreDNS's time: first the
    kubelet's, which has a limit, and then that of `reload`.
    """
    since = round(case.since(record))
    reload = corefile_hazards.reload_seconds(case.main or case.file.text, case.files)
    said = f"{case.file.where} was written {since} s ago, and the sidecars are ready for it; "
    if since <= KUBELET_SECONDS:
        return said + (
            "waiting for the kubelet to update the file in CoreDNS's pods, which takes up to two "
            f"minutes; CoreDNS's `reload` then reads it within {reload} s"
        )
    return said + (
        "the kubelet has had the two minutes in which it updates the file in CoreDNS's pods; "
        f"waiting for CoreDNS's `reload`, which looks every {reload} s at most. If this goes on, "
        "CoreDNS's log says whether it refused the file"
    )
