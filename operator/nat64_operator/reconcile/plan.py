"""The one function: all objects in, everything to do out.

Level-triggered: it asks what is, never what happened. What it returns is small where little
differs, and empty where nothing does.
"""

from __future__ import annotations

from collections.abc import Sequence

from nat64_dataplane import config
from nat64_operator import status
from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.api.conditions import ACCEPTED, PROGRAMMED, READY, Condition
from nat64_operator.api.gateway import Gateway
from nat64_operator.api.meta import Meta, Object, Resource
from nat64_operator.api.policy import Policy, PolicySpec
from nat64_operator.coredns import wiring
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import conflicts, corefiles, gateways, policies, removal
from nat64_operator.reconcile.actions import Apply, Delete, Group, Plan, Question
from nat64_operator.reconcile.drift import differs
from nat64_operator.reconcile.gateways import Refusal, Sidecars
from nat64_operator.reconcile.world import World
from nat64_operator.render import names, sidecar
from nat64_operator.render.manifest import Ref


def reconcile(world: World) -> Plan:
    """Decide. Policies come first: what they say about a gateway's sidecars is part of it, and a
    gateway that goes waits until no Corefile names it.
    """
    groups: list[Group] = []
    questions: list[Question] = []
    wakes: list[float] = []

    def note(outcome: policies.Outcome) -> None:
        groups.append(outcome.group)
        questions.extend([outcome.question] if outcome.question else [])
        wakes.extend([outcome.wake] if outcome.wake is not None else [])

    known, unreadable = _parse_gateways(world)
    groups += unreadable
    configs = _configs(known, world)
    observed = {g.name: gateways.observe(g, configs[g.name], world) for g in known}
    parsed_policies, unreadable = _parse_policies(world)
    groups += unreadable

    live = [policy for policy in parsed_policies if not policy.meta.deleting]
    refused = policies.refusals(live, world.gateways)

    groups.append(_clients(world))
    for policy in parsed_policies:
        seen = observed.get(policy.spec.gateway_ref.name)
        note(policies.reconcile(policy, seen, refused.get(policy.name), world))
    for name in sorted(world.policies_left_behind()):
        note(_forget_policy(name, world))

    serving = {p.spec.gateway_ref.name: p for p in live if p.name not in refused}
    wired = corefiles.wired_gateways(parsed_policies, world)
    for gateway in known:
        if gateway.meta.deleting:
            group, wake = gateways.remove(gateway, gateway.name in wired, world)
            groups.append(group)
            wakes.append(wake)
            continue
        sidecars = _sidecars(serving.get(gateway.name), world)
        groups.append(gateways.reconcile(observed[gateway.name], sidecars, world))
    for name in sorted(world.gateways_left_behind()):
        # Its finalizer was taken off by hand. The nodes are cleaned all the same.
        step = removal.step(name, False, world.now, world)
        groups.append(Group(Ref(gateway_api.KIND, name), step.actions))
        wakes.append(world.settings.node_wait_seconds)
    return Plan(
        tuple(group for group in groups if group.actions),
        tuple(questions),
        min(wakes, default=None),
    )


def removing(world: World) -> set[str]:
    """Gateways whose pods have to be looked at: those that are on their way out."""
    deleting = {
        name for name, obj in world.gateways.items() if obj["metadata"].get("deletionTimestamp")
    }
    return deleting | world.gateways_left_behind()


def ailing(world: World) -> set[str]:
    """Gateways of which some node should translate and doesn't: their pods may say why."""
    return {
        name
        for name, obj in world.gateways.items()
        for condition in (obj.get("status") or {}).get("conditions") or ()
        if condition["type"] == PROGRAMMED and condition["reason"] == "NodesNotReady"
    }


def _configs(known: Sequence[Gateway], world: World) -> dict[str, config.Config | Refusal]:
    configs: dict[str, config.Config | Refusal] = {}
    good: list[tuple[Gateway, config.Config]] = []
    for gateway in known:
        try:
            configs[gateway.name] = translator = gateway.config()
            good.append((gateway, translator))
        except InvalidObjectError as error:
            configs[gateway.name] = Refusal("Invalid", str(error))
    for name, found in conflicts.between_gateways(good, world).items():
        configs[name] = Refusal(*found)
    return configs


def _clients(world: World) -> Group:
    """The file that all sidecars share; it goes with the last gateway."""
    ref = Ref("ConfigMap", names.CLIENTS, world.settings.namespace)
    live = world.owned.get(ref)
    if not world.gateways and not world.gateways_left_behind():
        return Group(ref, (Delete(ref, live["metadata"]["uid"]),) if live else ())
    ranges = {text for node in world.nodes.values() for text in node.ranges}
    wanted = sidecar.clients_config(ranges, world.settings)
    return Group(ref, (Apply(wanted),) if differs(wanted, live) else ())


def _sidecars(policy: Policy | None, world: World) -> Sidecars:
    if policy is None:
        return Sidecars(PolicySpec(), ())
    return Sidecars(policy.spec, corefiles.upstreams(policy, world))


def _forget_policy(name: str, world: World) -> policies.Outcome:
    """A policy that is gone: CoreDNS has yet to forget the sidecars, or the finalizer was taken
    off by hand, and the edit goes all the same.
    """
    subject = Ref(policy_api.KIND, name)
    record = corefiles.record_of(name, world)
    if record is None:
        live = world.owned[Ref("ConfigMap", names.wiring_record(name), world.settings.namespace)]
        delete = Delete(Ref.of(live), live["metadata"]["uid"])
        return policies.Outcome(Group(subject, (delete,)))
    case = corefiles.recorded_case(name, record, world)
    step = wiring.unwire(case)
    group = Group(subject, tuple(corefiles.carry_out(name, "", step, case.file, world)))
    question = Question(name, case.prefix) if step.ask and case.prefix else None
    return policies.Outcome(group, question, step.wake)


def _parse_gateways(world: World) -> tuple[list[Gateway], list[Group]]:
    known, groups = [], []
    for obj in world.gateways.values():
        try:
            known.append(Gateway.parse(obj))
        except InvalidObjectError as error:
            if obj["metadata"].get("deletionTimestamp"):
                known.append(Gateway.parse({**obj, "spec": {}}))
            else:
                groups.append(_unreadable(gateway_api.KIND, obj, str(error), world))
    return known, groups


def _parse_policies(world: World) -> tuple[list[Policy], list[Group]]:
    known, groups = [], []
    for obj in world.policies.values():
        try:
            known.append(Policy.parse(obj))
        except InvalidObjectError as error:
            if obj["metadata"].get("deletionTimestamp"):
                known.append(Policy.parse({**obj, "spec": {}}))
            else:
                groups.append(_unreadable(policy_api.KIND, obj, str(error), world))
    return known, groups


def _unreadable(kind: str, obj: Object, message: str, world: World) -> Group:
    """Stored by a version of the API that this operator doesn't know: left alone, and said."""
    before = obj.get("status") or {}
    resource = Resource(Meta.of(obj), before, kind)
    conditions = [
        Condition(type_, False, "Invalid", message) for type_ in (ACCEPTED, PROGRAMMED, READY)
    ]
    fields = {k: v for k, v in before.items() if k not in ("conditions", "observedGeneration")}
    actions = status.write(resource, conditions, fields, world.now)
    return Group(Ref(kind, resource.name), tuple(actions))
