"""One policy: whether it is accepted, how far CoreDNS is wired for it, and its status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from nat64_operator.api.conditions import ACCEPTED, PROGRAMMED, READY, Condition
from nat64_operator.api.policy import KIND, FailMode, Mode, Policy
from nat64_operator.coredns import wiring
from nat64_operator.coredns.wiring_case import Case
from nat64_operator.coredns.wiring_record import State
from nat64_operator.errors import UnsupportedCorefileError, UnsupportedUpstreamsError
from nat64_operator.reconcile import corefiles, questions, status
from nat64_operator.reconcile.actions import Action, Emit, Group, Question, SetFinalizers
from nat64_operator.reconcile.corefiles import carry_out
from nat64_operator.reconcile.gateways import Observed, cluster_address
from nat64_operator.reconcile.ownership import Refusal
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref


class Outcome(NamedTuple):
    """What to do for a policy, what to ask, and when to look again."""

    group: Group
    question: Question | None = None
    wake: float | None = None


def refusals(policies: Iterable[Policy], world: World) -> dict[str, Refusal]:
    """Why policies are not carried out. If two want the same, the one that has it keeps it, so that
    an edit never takes a Corefile away from a running policy; otherwise the older one gets it.
    """
    refused: dict[str, Refusal] = {}
    by_gateway: dict[str, str] = {}
    by_place: dict[tuple[str, str], str] = {}
    for policy in sorted(policies, key=lambda p: _precedence(p, world)):
        ref, mode = policy.spec.gateway_ref.name, policy.spec.core_dns.mode
        # Only one policy may configure a CoreDNS, whatever part of it that policy changes.
        core_dns = policy.spec.core_dns
        place = core_dns.namespace, core_dns.config_map_name
        if ref not in world.gateways:
            refused[policy.name] = Refusal(
                "GatewayNotFound", f"spec.gatewayRef: there is no NAT64Gateway {ref!r}"
            )
        elif ref in by_gateway:
            refused[policy.name] = Refusal(
                "GatewayConflict",
                f"spec.gatewayRef: DNS64Policy {by_gateway[ref]!r} already configures the "
                f"sidecars of NAT64Gateway {ref!r}",
            )
        elif mode is not Mode.MANUAL and place in by_place:
            refused[policy.name] = Refusal(
                "CoreDNSConflict",
                f"spec.coreDNS: DNS64Policy {by_place[place]!r} already has ConfigMap "
                f"{place[0]}/{place[1]}; use the mode Manual for one of the two",
            )
        else:
            by_gateway[ref] = policy.name
            if mode is not Mode.MANUAL:
                by_place[place] = policy.name
    return refused


def _precedence(policy: Policy, world: World) -> tuple[bool, bool, tuple[str, str]]:
    """Sorts first the policy whose edit is in the Corefile, then one that was accepted before."""
    record = corefiles.record_of(policy.name, world)
    wired = (
        record is not None
        and record.state is not State.DRAINING
        and corefiles.is_about(record, policy)
    )
    accepted = status.said(policy.status, ACCEPTED) == "True"
    return not wired, not accepted, policy.meta.age_order


def reconcile(
    policy: Policy,
    gateway: Observed | None,
    refusal: Refusal | None,
    world: World,
) -> Outcome:
    """Carry a policy out, or undo it if it no longer applies."""
    if policy.meta.deleting:
        return _remove(policy, world)
    if refusal is None and gateway is None:
        return _left_alone(policy, world)
    actions: list[Action] = []
    record = corefiles.record_of(policy.name, world)
    # What is only draining is undone already, and the sidecars stay: nothing to wait for.
    undone = record is None or record.state is State.DRAINING
    elsewhere = record is not None and not undone and not corefiles.is_about(record, policy)
    if _is_wanted(policy, gateway, refusal) and not elsewhere:
        assert gateway is not None, "a policy is wanted only with its gateway"
        if names.FINALIZER not in policy.meta.finalizers:
            actions.append(_finalizers(policy, (*policy.meta.finalizers, names.FINALIZER)))
        case, step = _wire(policy, gateway.prefix, world)
    else:
        case = corefiles.case_to_restore(policy, world)
        if refusal is not None and record is None:  # what is there is another policy's
            case = case._replace(edit=None)
        step = wiring.unwire(case)
    actions += carry_out(policy.name, policy.meta.uid, step, case.file, world)
    conditions = _conditions(policy, gateway, refusal, step, world)
    fields = _fields(policy, gateway, world)
    actions += status.write(policy, conditions, fields, world)
    question = questions.question(policy.name, case, step, world)
    return Outcome(Group(Ref(KIND, policy.name), tuple(actions)), question, step.wake)


def _is_wanted(policy: Policy, gateway: Observed | None, refusal: Refusal | None) -> bool:
    leaving = gateway is None or gateway.gateway.meta.deleting
    return refusal is None and not leaving and policy.spec.core_dns.mode is not Mode.MANUAL


def _wire(policy: Policy, prefix: str, world: World) -> tuple[Case, wiring.Step]:
    case = corefiles.case_of(policy, prefix, None, world)
    try:
        case = case._replace(edit=corefiles.edit_of(policy, prefix, world))
        case = case._replace(refusal=corefiles.refusal_of(policy, world))
    except UnsupportedCorefileError as error:
        where = case.file.where
        return case, wiring.Step(False, "CorefileUnsupported", f"{where}: {error}")
    return case, wiring.wire(case)


def _left_alone(policy: Policy, world: World) -> Outcome:
    """Its gateway exists and can't be read: everything that works now stays as it is."""
    why = f"NAT64Gateway {policy.spec.gateway_ref.name!r} can't be read: nothing is changed"
    conditions = [
        Condition(ACCEPTED, True, "Accepted", why),
        Condition(PROGRAMMED, None, "GatewayInvalid", why),
        Condition(READY, None, "GatewayInvalid", why),
    ]
    kept = ("prefix", "nodes", "address", "stanza")
    fields = {key: policy.status[key] for key in kept if key in policy.status}
    actions = status.write(policy, conditions, fields, world)
    return Outcome(Group(Ref(KIND, policy.name), tuple(actions)))


def _remove(policy: Policy, world: World) -> Outcome:
    subject = Ref(KIND, policy.name)
    if names.FINALIZER not in policy.meta.finalizers:
        return Outcome(Group(subject, ()))
    case = corefiles.case_to_restore(policy, world)
    step = wiring.unwire(case)
    actions = carry_out(policy.name, policy.meta.uid, step, case.file, world)
    since = policy.meta.deleted if policy.meta.deleted is not None else world.now
    overdue = world.now - since > world.settings.removal_seconds
    if step.status or overdue:
        rest = tuple(f for f in policy.meta.finalizers if f != names.FINALIZER)
        finalizers = _finalizers(policy, rest)
        if step.status:
            actions.append(finalizers)
        else:
            note = f"removed although the Corefile could not be restored: {step.message}"
            event = Emit(subject, policy.meta.uid, True, "CorefileNotRestored", note)
            actions = [finalizers, event]
    return Outcome(Group(subject, tuple(actions)), wake=world.settings.node_wait_seconds)


def _finalizers(policy: Policy, finalizers: tuple[str, ...]) -> SetFinalizers:
    return SetFinalizers(Ref(KIND, policy.name), finalizers, policy.meta.resource_version)


def _conditions(
    policy: Policy,
    gateway: Observed | None,
    refusal: Refusal | None,
    step: wiring.Step,
    world: World,
) -> list[Condition]:
    if refusal is not None:
        return [
            Condition(ACCEPTED, False, *refusal),
            Condition(PROGRAMMED, False, *refusal),
            Condition(READY, False, *refusal),
        ]
    ref = policy.spec.gateway_ref.name
    accepted = Condition(ACCEPTED, True, "Accepted", f"configures NAT64Gateway {ref!r}")
    programmed = _programmed(policy, gateway, step, world)
    ready = corefiles.ready_sidecars(policy, world)
    untranslated = _untranslated(policy, gateway, ready, world)
    if untranslated is not None and programmed.reason == "SidecarsNotReady":
        programmed = untranslated._replace(type=PROGRAMMED)
    if not programmed.status:
        return [accepted, programmed, programmed._replace(type=READY)]
    if untranslated is not None:
        return [accepted, programmed, untranslated]
    if not ready:
        why = f"no DNS64 sidecar of NAT64Gateway {ref!r} is ready: {_without_sidecars(policy)}"
        return [accepted, programmed, Condition(READY, False, "SidecarsNotReady", why)]
    message = f"{_sidecars(ready)} ready; {programmed.message}"
    return [accepted, programmed, Condition(READY, True, "Ready", message)]


def _programmed(
    policy: Policy, gateway: Observed | None, step: wiring.Step, world: World
) -> Condition:
    ref = policy.spec.gateway_ref.name
    if gateway is not None and gateway.gateway.meta.deleting:
        why = f"NAT64Gateway {ref!r} is being deleted; {step.message}"
        return Condition(PROGRAMMED, False, "GatewayDeleting", why)
    if gateway is not None and gateway.refusal is not None:
        reason, message = gateway.refusal
        why = f"NAT64Gateway {ref!r} is not accepted ({reason}): {message}"
        if gateway.prefix:
            why += f"; DNS64 goes on for the last accepted prefix, {gateway.prefix}"
        return Condition(PROGRAMMED, False, "GatewayNotAccepted", why)
    if policy.spec.core_dns.mode is not Mode.MANUAL or not step.status:
        return Condition(PROGRAMMED, step.status, step.reason, step.message)
    return _by_hand(policy, world)


def _by_hand(policy: Policy, world: World) -> Condition:
    """What a person has to do, and which resolvers the sidecars ask meanwhile."""
    message = (
        "the sidecars are configured; put status.stanza into the Corefile in place of its "
        "`forward .` line"
    )
    try:
        corefiles.upstreams(policy, world)
    except UnsupportedUpstreamsError as error:
        return Condition(PROGRAMMED, False, "UpstreamsUnsupported", str(error))
    except UnsupportedCorefileError as error:
        message += (
            "; they ask the node's own resolvers, as spec.upstreams is not set and CoreDNS's can't "
            f"be told: {error}"
        )
    return Condition(PROGRAMMED, True, "Manual", message)


def _untranslated(
    policy: Policy, gateway: Observed | None, ready: int, world: World
) -> Condition | None:
    """Why the policy isn't ready, if the translator is the reason."""
    if gateway is None or gateway.programmed.status or gateway.ready.status:
        return None
    ref, programmed = policy.spec.gateway_ref.name, gateway.programmed
    ailing = [pod for pod in world.pods.get(ref, ()) if pod.unready and not pod.router]
    if programmed.reason == "RollingOut" or (
        ailing and all(pod.unready == (names.DNS64,) for pod in ailing)
    ):
        reason = "SidecarsNotReady"
    else:
        reason = "TranslatorNotProgrammed"
    effect = "names with only IPv4 can't be reached from the other nodes"
    if not ready:
        effect = _without_sidecars(policy)
    return Condition(
        READY,
        False,
        reason,
        f"{_sidecars(ready)} ready: {effect}. NAT64Gateway {ref!r} is not programmed "
        f"({programmed.reason}): {programmed.message}",
    )


def _sidecars(ready: int) -> str:
    return f"{ready or 'no'} DNS64 sidecar{'s' if ready > 1 else ''}"


def _without_sidecars(policy: Policy) -> str:
    if policy.spec.core_dns.fail_mode is FailMode.FAIL:
        return "external names don't resolve (failMode Fail)"
    return (
        "names with only IPv4 come back without an address, which CoreDNS keeps for up to 30 s; "
        "others resolve (failMode Fallback)"
    )


def _fields(policy: Policy, gateway: Observed | None, world: World) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if gateway is None:
        return fields
    daemon_set = world.find("DaemonSet", names.daemon_set(gateway.gateway.name))
    desired = get(daemon_set, "status", "desiredNumberScheduled") or 0
    ready = corefiles.ready_sidecars(policy, world)
    fields["nodes"] = {"desired": desired, "ready": ready, "summary": f"{ready}/{desired}"}
    if gateway.prefix:
        fields["prefix"] = gateway.prefix
    address = cluster_address(corefiles.service_of(policy, world))
    if address:
        fields["address"] = address
    if address and gateway.prefix:
        fields["stanza"] = corefiles.stanza(policy, gateway.prefix, address, world)[:8192]
    return fields
