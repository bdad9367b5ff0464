"""The one function of the operator: all observed objects in, a plan out.

It is level-triggered: it compares desired and observed state, and never asks which event came. The
plan is empty when both are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from nat64_dataplane import config
from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import gateway_checks
from nat64_operator.api import policy as policy_api
from nat64_operator.api.conditions import ACCEPTED, PROGRAMMED, READY, Condition
from nat64_operator.api.gateway import Gateway
from nat64_operator.api.host_ports import DEFAULT_NAME
from nat64_operator.api.meta import Meta, Object, Resource
from nat64_operator.api.policy import Policy, PolicySpec
from nat64_operator.coredns import wiring
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import (
    corefiles,
    gateways,
    host_ports,
    ownership,
    policies,
    questions,
    removal,
    startup_taint,
    status,
)
from nat64_operator.reconcile.actions import Defect, Delete, Group, Plan, Question
from nat64_operator.reconcile.drift import repair
from nat64_operator.reconcile.gateways import Observed, Sidecars
from nat64_operator.reconcile.ownership import Refusal
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names, sidecar_corefile
from nat64_operator.render.manifest import Ref

T = TypeVar("T")
R = TypeVar("R", Gateway, Policy)


class _Decisions:
    """A plan while it is made. A bug that affects one object does not stop the others."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._groups: list[Group] = []
        self._questions: list[Question] = []
        self._wakes: list[float] = []
        self._defects: list[Defect] = []

    def attempt(self, subject: Ref, decide: Callable[[], T]) -> T | None:
        """Call `decide` for an object. If it raises, the status says so, and None is returned."""
        try:
            return decide()
        except Exception as error:
            self._defects.append(Defect(subject, error))
            found = {gateway_api.KIND: self._world.gateways, policy_api.KIND: self._world.policies}
            obj = found.get(subject.kind, {}).get(subject.name)
            if obj is not None:
                why = f"the operator failed: {type(error).__name__}: {error}; its log says more"
                self.group(_unreadable(subject.kind, obj, "InternalError", why, self._world))
            return None

    def group(self, group: Group) -> None:
        """Add the actions for an object."""
        if group.actions:
            self._groups.append(group)

    def wake(self, seconds: float | None) -> None:
        """Look again after so many seconds, if not before."""
        self._wakes.extend([] if seconds is None else [seconds])

    def outcome(self, subject: Ref, decide: Callable[[], policies.Outcome]) -> None:
        """Decide about a policy, and add the outcome."""
        outcome = self.attempt(subject, decide)
        if outcome is None:
            return
        self.group(outcome.group)
        self._questions.extend([outcome.question] if outcome.question else [])
        self.wake(outcome.wake)

    def leaving(self, subject: Ref, decide: Callable[[], Group]) -> None:
        """Decide about a gateway that is being removed. It is looked at again in any case."""
        self._wakes.append(self._world.settings.node_wait_seconds)
        if group := self.attempt(subject, decide):
            self.group(group)

    def plan(self) -> Plan:
        """The finished plan."""
        return Plan(
            tuple(self._groups),
            tuple(self._questions),
            min(self._wakes, default=None),
            tuple(self._defects),
        )


def reconcile(world: World) -> Plan:
    """Make the plan. Policies come first: a gateway needs to know what its sidecars are to do,
    and a deleted gateway waits until no Corefile points to it.
    """
    made = _Decisions(world)
    observed = _observe(made, world)
    parsed = _parse(made, policy_api.KIND, world.policies, Policy.parse, world)
    live = [policy for policy in parsed if not policy.meta.deleting]
    refused = policies.refusals(live, world)

    clients = Ref("ConfigMap", names.CLIENTS, world.settings.namespace)
    if group := made.attempt(clients, partial(_clients, clients, world)):
        made.group(group)
    for policy in parsed:
        seen = observed.get(policy.spec.gateway_ref.name)
        refusal = refused.get(policy.name)
        decide = partial(policies.reconcile, policy, seen, refusal, world)
        made.outcome(Ref(policy_api.KIND, policy.name), decide)
    for name in sorted(world.policies_left_behind()):
        made.outcome(Ref(policy_api.KIND, name), partial(_forget_policy, name, world))

    serving = {p.spec.gateway_ref.name: p for p in live if p.name not in refused}
    unread = _gateways_of(world.policies.keys() - {policy.name for policy in parsed}, world)
    wired = corefiles.wired_gateways(parsed, world)
    for name, seen in observed.items():
        subject = Ref(gateway_api.KIND, name)
        if seen.gateway.meta.deleting:
            made.leaving(subject, partial(gateways.remove, seen.gateway, name in wired, world))
            continue
        # Sidecars that CoreDNS still asks go on answering as before: other upstreams may know less.
        as_it_is = name in unread or name in wired
        keep = partial(_keep, seen, serving.get(name), as_it_is, world)
        if group := made.attempt(subject, keep):
            made.group(group)
        write = partial(gateways.router_file, seen, world)
        if (group := made.attempt(subject, write)) and group.actions:
            made.group(group)
        if seen.shares is not None:
            made.wake(seen.shares.allocation.wake)
    for group in startup_taint.step(observed.values(), world):
        made.group(group)
    for name in sorted(world.gateways_left_behind()):
        made.leaving(Ref(gateway_api.KIND, name), partial(_forget_gateway, name, world))
    return made.plan()


def _observe(made: _Decisions, world: World) -> dict[str, Observed]:
    """All gateways that can be read, with the state of their nodes."""
    read = _parse(made, gateway_api.KIND, world.gateways, Gateway.parse, world)
    known = host_ports.assign(read, world)
    decisions = ownership.decide(_configs(known, world), world)
    seen = (
        made.attempt(
            Ref(gateway_api.KIND, gateway.name),
            partial(gateways.observe, gateway, decisions[gateway.name], world),
        )
        for gateway in known
    )
    return {observed.gateway.name: observed for observed in seen if observed is not None}


def _configs(
    known: Sequence[Gateway], world: World
) -> Iterator[tuple[Gateway, config.Config | Refusal]]:
    """What each spec asks of the nodes, or why it can't be carried out whatever others have."""
    for gateway in known:
        try:
            translator = gateway.config()
            gateway_checks.check(gateway, translator)
            gateways.check_prefix(translator, world)
            yield gateway, translator
        except InvalidObjectError as error:
            yield gateway, Refusal("Invalid", str(error))


def _clients(ref: Ref, world: World) -> Group:
    """The file of client ranges that all sidecars share. It is deleted with the last gateway."""
    live = world.owned.get(ref)
    if not world.gateways and not world.gateways_left_behind():
        return Group(ref, (Delete(ref, live["metadata"]["uid"]),) if live else ())
    ranges = {text for node in world.nodes.values() for text in node.ranges}
    ranges |= world.dns_clients
    return Group(ref, tuple(repair(sidecar_corefile.clients_config(ranges, world.settings), live)))


def _keep(observed: Observed, policy: Policy | None, as_it_is: bool, world: World) -> Group:
    """Keep a gateway running. Without a policy its sidecars keep their Corefile if it is to stay
    `as_it_is`: the policy can't be read, or it is gone and CoreDNS has not read its restored
    Corefile yet.
    """
    sidecars = Sidecars(PolicySpec())
    if policy is not None:
        sidecars = Sidecars(policy.spec, corefiles.upstreams_or_none(policy, world))
    elif as_it_is:
        sidecars = sidecars._replace(corefile=_corefile_of(observed.gateway.name, world))
    withdrawn = observed.gateway.name in questions.withdrawn_gateways(world)
    return gateways.reconcile(observed, sidecars._replace(withdrawn=withdrawn), world)


def _corefile_of(gateway: str, world: World) -> str:
    """The Corefile of a gateway's sidecars: for their version, else for the version before."""
    current = names.sidecar_config(gateway, world.settings.dataplane_image)
    found = {
        ref.name: text
        for ref, obj in sorted(world.owned_by(gateway).items())
        if (text := get(obj, "data", names.COREFILE))
    }
    return found.get(current) or next(iter(found.values()), "")


def _gateways_of(policies_by_name: Iterable[str], world: World) -> set[str]:
    """The gateways that unreadable policies refer to."""
    specs = (world.policies[name] for name in policies_by_name)
    return {str(get(obj, "spec", "gatewayRef", "name") or DEFAULT_NAME) for obj in specs}


def _forget_gateway(name: str, world: World) -> Group:
    """A gateway whose finalizer was removed by hand. Its nodes are cleaned anyway."""
    subject = Ref(gateway_api.KIND, name)
    step = removal.step(name, False, world.left_behind.get(name, world.now), world)
    return Group(subject, (*step.actions, *step.events(subject, "")))


def _forget_policy(name: str, world: World) -> policies.Outcome:
    """A policy that is gone. CoreDNS has yet to read its restored Corefile, or the finalizer was
    removed by hand; the edit is undone anyway.
    """
    subject = Ref(policy_api.KIND, name)
    record = corefiles.record_of(name, world)
    if record is None:
        live = world.find("ConfigMap", names.wiring_record(name))
        delete = (Delete(Ref.of(live), live["metadata"]["uid"]),) if live else ()
        return policies.Outcome(Group(subject, (*delete, *corefiles.back_up(name, None, world))))
    case = corefiles.recorded_case(name, record, world)
    step = wiring.unwire(case)
    group = Group(subject, tuple(corefiles.carry_out(name, "", step, case.file, world)))
    question = questions.question(name, case, step, world)
    return policies.Outcome(group, question, step.wake)


def _parse(
    made: _Decisions,
    kind: str,
    objects: Mapping[str, Object],
    parse: Callable[[Object], R],
    world: World,
) -> list[R]:
    """All objects of a kind that can be read. The status of every other one says why it can't."""
    known = []
    for obj in objects.values():
        try:
            known.append(parse(obj))
        except InvalidObjectError as error:
            if obj["metadata"].get("deletionTimestamp"):
                known.append(parse({**obj, "spec": {}}))
            else:
                made.group(_unreadable(kind, obj, "Invalid", str(error), world))
    return known


def _unreadable(kind: str, obj: Object, reason: str, message: str, world: World) -> Group:
    """Leave an object alone, and say so in its status. Usually another API version stored it."""
    before = obj.get("status") or {}
    resource = Resource(Meta.of(obj), before, kind)
    conditions = [
        Condition(type_, False, reason, message) for type_ in (ACCEPTED, PROGRAMMED, READY)
    ]
    fields = {k: v for k, v in before.items() if k not in ("conditions", "observedGeneration")}
    actions = status.write(resource, conditions, fields, world)
    return Group(Ref(kind, resource.name), tuple(actions))
