"""One policy: whether it is accepted, how far CoreDNS is wired for it, and what its status says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from nat64_operator import status
from nat64_operator.api.conditions import ACCEPTED, PROGRAMMED, READY, Condition
from nat64_operator.api.gateway import Gateway
from nat64_operator.api.policy import KIND, FailMode, Mode, Policy
from nat64_operator.coredns import line, wiring
from nat64_operator.coredns.record import Record
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.reconcile.actions import (
    Action,
    Apply,
    Delete,
    Emit,
    Group,
    Question,
    SetFinalizers,
    WriteCorefile,
)
from nat64_operator.reconcile.drift import differs
from nat64_operator.reconcile.gateways import Refusal, cluster_address
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref


class Outcome(NamedTuple):
    """What to do for a policy, what to ask, and when to look again."""

    group: Group
    question: Question | None = None
    wake: float | None = None


def record_of(policy: str, world: World) -> Record | None:
    """What is remembered of a policy's edit."""
    obj = world.find("ConfigMap", names.wiring_record(policy))
    return Record.read(obj) if obj is not None else None


def file_of(namespace: str, name: str, world: World) -> wiring.File | None:
    """A Corefile as observed."""
    obj = world.corefiles.get((namespace, name))
    return wiring.File.of(obj) if obj is not None else None


def upstreams(policy: Policy, world: World) -> tuple[str, ...]:
    """What the sidecars ask: the policy's, else what CoreDNS asks without us."""
    if policy.spec.upstreams:
        return policy.spec.upstreams
    record = record_of(policy.name, world)
    spec = policy.spec.core_dns
    file = file_of(spec.namespace, spec.config_map_name, world)
    text = record.original if record is not None else file.text if file is not None else ""
    own = cluster_address(_service(policy, world))
    try:
        found = line.find(text).upstreams
    except UnsupportedCorefileError:
        return ()
    return tuple(u for u in found if not own or u not in (own, line.upstream(own)))


def refusals(
    policies: Iterable[Policy], gateways: Mapping[str, Gateway | None]
) -> dict[str, Refusal]:
    """Why policies are not carried out. The older of two keeps working."""
    refused: dict[str, Refusal] = {}
    by_gateway: dict[str, str] = {}
    by_file: dict[tuple[str, str], str] = {}
    for policy in sorted(policies, key=lambda p: p.meta.age_order):
        ref, dns = policy.spec.gateway_ref.name, policy.spec.core_dns
        file = (dns.namespace, dns.config_map_name)
        if ref not in gateways:
            refused[policy.name] = Refusal(
                "GatewayNotFound", f"spec.gatewayRef: there is no NAT64Gateway {ref!r}"
            )
        elif ref in by_gateway:
            refused[policy.name] = Refusal(
                "GatewayConflict",
                f"spec.gatewayRef: DNS64Policy {by_gateway[ref]!r}, which is older, configures "
                f"the sidecars of NAT64Gateway {ref!r}",
            )
        elif dns.mode is not Mode.MANUAL and file in by_file:
            refused[policy.name] = Refusal(
                "CoreDNSConflict",
                f"spec.coreDNS: DNS64Policy {by_file[file]!r}, which is older, has ConfigMap "
                f"{file[0]}/{file[1]}; use the mode Manual for one of the two",
            )
        else:
            by_gateway[ref] = policy.name
            if dns.mode is not Mode.MANUAL:
                by_file[file] = policy.name
    return refused


def reconcile(
    policy: Policy,
    gateway: Gateway | None,
    refusal: Refusal | None,
    world: World,
) -> Outcome:
    """Carry a policy out, or take it back where it no longer holds."""
    subject = Ref(KIND, policy.name)
    record = record_of(policy.name, world)
    spec = policy.spec.core_dns
    actions: list[Action] = []
    if policy.meta.deleting:
        return _remove(policy, record, world)
    if refusal is None and gateway is None:
        return _left_alone(policy, world)
    leaving = gateway is not None and gateway.meta.deleting
    wanted = refusal is None and gateway is not None and not leaving and spec.mode is Mode.FORWARD
    moved = record is not None and (record.namespace, record.config_map) != (
        spec.namespace,
        spec.config_map_name,
    )
    if wanted and not moved:
        if names.FINALIZER not in policy.meta.finalizers:
            actions.append(_finalizers(policy, (*policy.meta.finalizers, names.FINALIZER)))
        address = _usable_address(policy, record, world)
        file = file_of(spec.namespace, spec.config_map_name, world)
        answer = world.answers.get(policy.name)
        case = wiring.Case(spec, address, file, record, answer, world.now, world.settings)
        step = wiring.wire(case)
    else:
        file, address = _to_restore(policy, record, refusal, world)
        step = wiring.unwire(file, record, address)
    actions += carry_out(policy.name, policy.meta.uid, step, file, world)
    conditions = _conditions(policy, gateway, refusal, step, world)
    fields = _fields(policy, gateway, world)
    actions += status.write(policy, conditions, fields, world.now)
    question = None
    if step.ask and gateway is not None:
        question = Question(policy.name, gateway.spec.prefix)
    return Outcome(Group(subject, tuple(actions)), question, step.wake)


def _left_alone(policy: Policy, world: World) -> Outcome:
    """Its gateway is there and can't be read: whatever works now goes on as it is."""
    why = f"NAT64Gateway {policy.spec.gateway_ref.name!r} can't be read: all is left as it is"
    conditions = [
        Condition(ACCEPTED, True, "Accepted", why),
        Condition(PROGRAMMED, None, "GatewayInvalid", why),
        Condition(READY, None, "GatewayInvalid", why),
    ]
    kept = ("prefix", "nodes", "address", "stanza")
    fields = {key: policy.status[key] for key in kept if key in policy.status}
    actions = status.write(policy, conditions, fields, world.now)
    return Outcome(Group(Ref(KIND, policy.name), tuple(actions)))


def carry_out(
    policy: str,
    uid: str,
    step: wiring.Step,
    file: wiring.File | None,
    world: World,
) -> list[Action]:
    """The actions of a step: the record before the Corefile, and gone only after it."""
    actions: list[Action] = []
    ref = Ref("ConfigMap", names.wiring_record(policy), world.settings.namespace)
    live = world.owned.get(ref)
    record = record_of(policy, world)
    keep = step.store or record
    if step.forget and live is not None:
        actions.append(Delete(ref, live["metadata"]["uid"]))
    elif keep is not None and differs(manifest := keep.manifest(policy, world.settings), live):
        actions.append(Apply(manifest))
    if step.write is not None and file is not None:
        actions.append(WriteCorefile(file.namespace, file.name, step.write, file.resource_version))
    if step.warning:
        actions.append(
            Emit(Ref(KIND, policy), uid, True, f"Corefile{step.reason}", step.warning[:1024])
        )
    return actions


def _remove(policy: Policy, record: Record | None, world: World) -> Outcome:
    subject = Ref(KIND, policy.name)
    if names.FINALIZER not in policy.meta.finalizers:
        return Outcome(Group(subject, ()))
    file, address = _to_restore(policy, record, None, world)
    step = wiring.unwire(file, record, address)
    actions = carry_out(policy.name, policy.meta.uid, step, file, world)
    since = policy.meta.deleted if policy.meta.deleted is not None else world.now
    overdue = world.now - since > world.settings.removal_seconds
    if step.status or overdue:
        if not step.status:
            note = f"let go although the Corefile could not be restored: {step.message}"
            actions = [Emit(subject, policy.meta.uid, True, "CorefileNotRestored", note)]
        rest = tuple(f for f in policy.meta.finalizers if f != names.FINALIZER)
        actions.append(_finalizers(policy, rest))
    return Outcome(Group(subject, tuple(actions)), wake=world.settings.node_wait_seconds)


def _to_restore(
    policy: Policy, record: Record | None, refusal: Refusal | None, world: World
) -> tuple[wiring.File | None, str | None]:
    """The Corefile to unwire, and the sidecars' address where that is all there is to know it by.

    Without a record of its own a policy touches a line only if nobody else can have written it:
    not another policy, and not a person who was asked to by the mode Manual.
    """
    if record is not None:
        return file_of(record.namespace, record.config_map, world), None
    spec = policy.spec.core_dns
    if refusal is not None or spec.mode is not Mode.FORWARD:
        return None, None
    for name in world.policies:
        other = record_of(name, world)
        key = (spec.namespace, spec.config_map_name)
        if other is not None and (other.namespace, other.config_map) == key:
            return None, None
    file = file_of(spec.namespace, spec.config_map_name, world)
    return file, cluster_address(_service(policy, world)) or policy.status.get("address")


def is_wired(policy: Policy, world: World) -> bool:
    """Whether a Corefile still names the sidecars because of this policy."""
    record = record_of(policy.name, world)
    file, address = _to_restore(policy, record, None, world)
    return not wiring.unwire(file, record, address).status


def _usable_address(policy: Policy, record: Record | None, world: World) -> str | None:
    """Where the sidecars answer. A Corefile is wired only to sidecars that are ready; once it is,
    a moment without any is what failMode is for.
    """
    service = _service(policy, world)
    address = cluster_address(service)
    ready = world.endpoints.get(names.dns_service(policy.spec.gateway_ref.name), 0)
    if address and (ready or (record is not None and record.confirmed)):
        return address
    return None


def _service(policy: Policy, world: World) -> Any:
    name = names.dns_service(policy.spec.gateway_ref.name)
    return world.find("Service", name)


def _finalizers(policy: Policy, finalizers: tuple[str, ...]) -> SetFinalizers:
    return SetFinalizers(Ref(KIND, policy.name), finalizers, policy.meta.resource_version)


def _conditions(
    policy: Policy,
    gateway: Gateway | None,
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
    if gateway is not None and gateway.meta.deleting:
        why = f"NAT64Gateway {ref!r} is being deleted; {step.message}"
        programmed = Condition(PROGRAMMED, False, "GatewayDeleting", why)
    elif policy.spec.core_dns.mode is Mode.FORWARD:
        programmed = Condition(PROGRAMMED, step.status, step.reason, step.message)
    elif not step.status:
        programmed = Condition(PROGRAMMED, False, step.reason, step.message)
    else:
        programmed = Condition(
            PROGRAMMED,
            True,
            "Manual",
            "the sidecars are configured; put status.stanza into the Corefile in place of its "
            "`forward .` line",
        )
    ready = world.endpoints.get(names.dns_service(ref), 0)
    if not programmed.status:
        return [accepted, programmed, programmed._replace(type=READY)]
    if not ready:
        return [
            accepted,
            programmed,
            Condition(READY, False, "SidecarsNotReady", _no_sidecars(policy)),
        ]
    message = f"{ready} sidecar{'s' if ready > 1 else ''} ready; {programmed.message}"
    return [accepted, programmed, Condition(READY, True, "Ready", message)]


def _no_sidecars(policy: Policy) -> str:
    if policy.spec.core_dns.fail_mode is FailMode.FAIL:
        return "no DNS64 sidecar is ready: external names don't resolve (failMode Fail)"
    return "no DNS64 sidecar is ready: names with only IPv4 don't resolve (failMode Fallback)"


def _fields(policy: Policy, gateway: Gateway | None, world: World) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if gateway is None:
        return fields
    fields["prefix"] = gateway.spec.prefix
    daemon_set = world.find("DaemonSet", names.daemon_set(gateway.name))
    desired = get(daemon_set, "status", "desiredNumberScheduled") or 0
    ready = world.endpoints.get(names.dns_service(gateway.name), 0)
    fields["nodes"] = {"desired": desired, "ready": ready, "summary": f"{ready}/{desired}"}
    if address := cluster_address(_service(policy, world)):
        fields["address"] = address
        fields["stanza"] = _stanza(policy, address, world)
    return fields


def _stanza(policy: Policy, address: str, world: World) -> str:
    spec = policy.spec.core_dns
    record = record_of(policy.name, world)
    file = file_of(spec.namespace, spec.config_map_name, world)
    text = record.original if record is not None else file.text if file is not None else ""
    own = line.upstream(address)
    try:
        original = line.find(text)
    except UnsupportedCorefileError:
        original = line.find(".:53 {\n    forward . /etc/resolv.conf\n}\n")
    if own in original.upstreams:
        return original.text[:8192]
    return line.wired(original, address, spec.fail_mode)[:8192]
