"""The DNS questions for a policy, and the immediate reaction to harm."""

from __future__ import annotations

from nat64_operator.api.policy import Mode
from nat64_operator.coredns import forward_line
from nat64_operator.coredns.wiring_case import Case, Step
from nat64_operator.coredns.wiring_record import State
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.reconcile.actions import Question
from nat64_operator.reconcile.corefiles import others
from nat64_operator.reconcile.gateways import cluster_address
from nat64_operator.reconcile.world import World
from nat64_operator.render import names
from nat64_operator.render.forward_stanza import is_askable


def question(policy: str, case: Case, step: Step, world: World) -> Question | None:
    """What a step has to know from DNS, and whom to ask."""
    if not step.ask or not case.prefix:
        return None
    mode = case.record.mode if case.record is not None else case.file.mode
    if mode is Mode.PLUGIN:
        return Question(policy, case.prefix, probe=step.probe)
    service = names.dns_service(case.gateway)
    address = cluster_address(world.find("Service", service))
    if not address:
        return Question(policy, case.prefix)
    asked = (forward_line.upstream(address), *world.sidecars.get(service, ()))
    return Question(policy, case.prefix, asked, _direct_upstreams(case, address), step.probe)


def _direct_upstreams(case: Case, address: str) -> tuple[str, ...]:
    """The upstreams that CoreDNS asks without us and that anybody can ask."""
    text = case.main or (case.record.original if case.record is not None else case.file.text)
    try:
        upstreams = forward_line.find(text, case.files).upstreams
    except UnsupportedCorefileError:
        return ()
    plain = (u.removeprefix("dns://") for u in others(upstreams, address))
    return tuple(u for u in plain if "/" not in u and is_askable(u))


def withdrawn_gateways(world: World) -> frozenset[str]:
    """Gateways whose Service must have no endpoints for now. CoreDNS's Corefile was restored
    because of harm, and CoreDNS takes minutes to read it. A Service without endpoints refuses at
    once, so CoreDNS asks the upstreams behind it.
    """
    settings = world.settings
    return frozenset(
        record.gateway
        for record in world.records.values()
        if record.harmed
        and record.state is State.ROLLED_BACK
        and world.now - record.since < settings.confirm_seconds
    )
