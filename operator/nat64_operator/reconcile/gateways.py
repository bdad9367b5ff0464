"""One gateway: what should exist for it, what differs, and what its status says."""

from __future__ import annotations

from typing import Any, NamedTuple

from nat64_dataplane import config
from nat64_dataplane.corefile import content_hash
from nat64_operator.api.conditions import ACCEPTED, PROGRAMMED, READY, Condition
from nat64_operator.api.gateway import KIND, Gateway
from nat64_operator.api.policy import PolicySpec
from nat64_operator.coredns.carried_upstreams import Upstreams
from nat64_operator.errors import InvalidObjectError
from nat64_operator.reconcile import (
    degraded,
    membership,
    node_cleanup,
    readiness,
    removal,
    roles,
    rollout,
    routers,
    shares,
    sidecars_alone,
    status,
)
from nat64_operator.reconcile.actions import Action, Announce, Delete, Group, SetFinalizers
from nat64_operator.reconcile.deployed import mounted_config, rolled_out, running_config
from nat64_operator.reconcile.drift import repair
from nat64_operator.reconcile.membership import Membership
from nat64_operator.reconcile.ownership import Decision, Effective, Refusal
from nat64_operator.reconcile.programmed import FAILING, programmed_condition
from nat64_operator.reconcile.readiness import Counts
from nat64_operator.reconcile.roles import TRANSLATING
from nat64_operator.reconcile.shares import Shares
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import gateway as render
from nat64_operator.render import names, sidecar_corefile
from nat64_operator.render.manifest import Ref


class Observed(NamedTuple):
    """A gateway, the spec that is carried out for it, and the state of its nodes."""

    gateway: Gateway
    effective: Effective | None
    refusal: Refusal | None
    prefix: str
    """The prefix that the nodes translate. While the spec is refused, the last accepted one; empty
    for none."""
    conditions: list[Condition]
    fields: dict[str, Any]
    shares: Shares | None = None
    """What the nodes have of ranges that they share, and know of the pods."""
    members: Membership | None = None
    """What the nodes are told of each other, if they translate for others."""

    @property
    def ready(self) -> Condition:
        """The condition that says whether the gateway keeps its promise."""
        return next(c for c in self.conditions if c.type == READY)

    @property
    def programmed(self) -> Condition:
        """The condition that says whether every node translates."""
        return next(c for c in self.conditions if c.type == PROGRAMMED)


class Sidecars(NamedTuple):
    """What a policy wants from the sidecars of a gateway."""

    policy: PolicySpec
    upstreams: Upstreams = Upstreams()
    withdrawn: bool = False
    """Whether their Service has no endpoints for now."""
    corefile: str = ""
    """Their present Corefile, if it is to stay because their policy can't be read."""


def reconcile(observed: Observed, sidecars: Sidecars, world: World) -> Group:
    """Keep a gateway running, with its spec or, while that is refused, the last accepted one."""
    gateway = observed.gateway
    subject = Ref(KIND, gateway.name)
    actions: list[Action] = []
    if observed.effective is not None:
        if names.FINALIZER not in gateway.meta.finalizers:
            # Before anything is made that would have to be cleaned up.
            actions.append(
                SetFinalizers(
                    subject,
                    (*gateway.meta.finalizers, names.FINALIZER),
                    gateway.meta.resource_version,
                )
            )
        assert observed.shares is not None
        changes = _apply(observed, observed.effective, observed.shares, sidecars, world)
        actions += changes or rollout.step(observed.effective.gateway, world)
        actions += membership.events(gateway, observed.members)
    actions += status.write(gateway, observed.conditions, observed.fields, world)
    return Group(subject, tuple(actions))


def remove(gateway: Gateway, wired: bool, world: World) -> Group:
    """Take a deleted gateway off the nodes."""
    subject = Ref(KIND, gateway.name)
    if names.FINALIZER not in gateway.meta.finalizers:
        return Group(subject, ())
    since = gateway.meta.deleted if gateway.meta.deleted is not None else world.now
    step = removal.step(gateway.name, wired, since, world)
    actions = list(step.actions)
    if step.done:
        rest = tuple(f for f in gateway.meta.finalizers if f != names.FINALIZER)
        actions.append(SetFinalizers(subject, rest, gateway.meta.resource_version))
        actions += step.events(subject, gateway.meta.uid)
    else:
        conditions = [
            Condition(ACCEPTED, True, "Deleting", "being removed"),
            Condition(PROGRAMMED, False, "Deleting", step.message),
            Condition(READY, False, "Deleting", step.message),
        ]
        fields = Counts.of(world.find("DaemonSet", names.daemon_set(gateway.name))).fields()
        actions += status.write(gateway, conditions, {"nodes": fields}, world)
    return Group(subject, tuple(actions))


def observe(gateway: Gateway, decision: Decision, world: World) -> Observed:
    """The status of a gateway: conditions and the other fields."""
    effective, refusal = decision
    daemon_set = world.find("DaemonSet", names.daemon_set(gateway.name))
    service = world.find("Service", names.dns_service(gateway.name))
    kept_off = effective.kept_off if effective else {}
    carried_out = effective.gateway if effective else gateway
    counts = readiness.count(carried_out, TRANSLATING, kept_off.keys(), world)
    fields: dict[str, Any] = {"nodes": counts.fields()}
    pods = readiness.of_role(world.pods.get(gateway.name, ()), TRANSLATING)
    here = roles.gateway_nodes(carried_out, world)
    lost = {node: other for node, other in kept_off.items() if node in here}
    if found := readiness.failing(counts, lost, pods):
        fields["nodes"]["failing"] = found
    if address := cluster_address(service):
        fields["dnsAddress"] = address
    running = effective.translator if effective else running_config(daemon_set, world)
    prefix = str(running.prefix) if running else ""
    if running:
        fields |= {"prefix": prefix, "configHash": running.content_hash}
    if effective is not None:
        fields["hostPorts"] = effective.gateway.ports.all()
    decided = _shares(effective, daemon_set, world) if effective else None
    if decided is not None and decided.demands:
        fields["pools"] = decided.fields()
    told = membership.of(effective, world) if effective else None
    steering = routers.observe(gateway, effective, told, world) if effective else None
    if told is not None and steering is not None:
        fields |= {"gateways": told.fields(), "routers": steering.fields}
    more = list(told.warnings) if told else []
    if effective is None or refusal is not None:
        reason, message = refusal or Refusal("Invalid", "the spec can't be carried out")
        why = "nothing runs for this gateway: its spec is not accepted"
        if daemon_set is not None:
            why = "the nodes keep the last accepted config"
        conditions = [
            Condition(ACCEPTED, False, reason, message),
            Condition(PROGRAMMED, False, reason, why),
            Condition(READY, False, reason, why),
            *degraded.warnings(gateway, running, world, kept_off, (), more),
        ]
        return Observed(gateway, effective, refusal, prefix, conditions, fields, decided, told)
    translator = effective.translator
    accepted = Condition(ACCEPTED, True, "Accepted", f"translates {translator.prefix}")
    short = decided.shortages() if decided else []
    programmed = programmed_condition(gateway, daemon_set, translator, counts, world)
    if short and not programmed.status and programmed.reason in (*FAILING, "RollingOut"):
        what = f"{short[0].message}; {programmed.message}"
        programmed = programmed._replace(reason="RangeTooSmall", message=what)
    ready = readiness.ready_condition(gateway, counts, programmed)
    conditions = [accepted, programmed]
    if steering is not None:
        conditions.append(steering.programmed)
        ready = steering.ready_with(ready)
    conditions.append(ready)
    failing = [c for c in conditions[1:-1] if c.reason in FAILING]
    conditions += degraded.warnings(gateway, translator, world, kept_off, failing, [*short, *more])
    return Observed(gateway, effective, None, prefix, conditions, fields, decided, told)


def check_prefix(translator: config.Config, world: World) -> None:
    """Raises InvalidObjectError where the prefix overlaps a range of the cluster's own. A prefix
    that already runs is not refused: the range came later, and `Degraded` says so.
    """
    running = running_config(world.find("DaemonSet", names.daemon_set(translator.name)), world)
    already = running.prefixes if running else ()
    for field, prefix in zip(("prefix", "clat.prefix"), translator.prefixes, strict=False):
        range_of_cluster = world.cluster_ranges.overlap(prefix)
        if range_of_cluster is not None and prefix not in already:
            raise InvalidObjectError(
                f"spec.{field}: {prefix} overlaps {range_of_cluster}: packets for it would be "
                "translated; use a prefix that nothing else in the cluster uses"
            )


def cluster_address(service: Any) -> str | None:
    """The address that the API server gave a Service."""
    address = get(service, "spec", "clusterIP")
    return address if address and address != "None" else None


def _shares(effective: Effective, daemon_set: Any, world: World) -> Shares:
    translator = effective.translator
    current = names.translator_config(translator.name, translator.content_hash)
    settled = rolled_out(daemon_set) and mounted_config(daemon_set) == current
    left = frozenset(node_cleanup.of(effective, world).nodes)
    return shares.of(effective, left, settled or daemon_set is None, world)


def _apply(
    observed: Observed, effective: Effective, decided: Shares, sidecars: Sidecars, world: World
) -> list[Action]:
    gateway, translator, kept_off = effective
    corefile = sidecars.corefile or sidecar_corefile.render_corefile(
        translator,
        gateway.ports,
        sidecars.policy,
        sidecars.upstreams.names,
        sidecars.upstreams.forward,
    )
    wanted = [
        render.translator_config(gateway.name, translator, world.settings),
        sidecar_corefile.sidecar_config(gateway.name, corefile, world.settings),
        render.service(
            gateway,
            world.settings,
            withdrawn=sidecars.withdrawn,
            same_node=world.api_version >= render.SAME_NODE_SINCE,
            unready=sidecars_alone.publishes(gateway.name, world),
        ),
        *node_cleanup.of(effective, world).manifests,
        *routers.manifests(effective, observed.members, world),
        render.daemon_set(
            gateway,
            translator,
            world.settings,
            kept_off.keys() & roles.gateway_nodes(gateway, world),
            had_clat=routers.had_clat(gateway.name, world),
        ),
    ]
    owned = world.owned_by(gateway.name)
    record = decided.manifest(world)
    # First, because nothing may run that is not recorded; and only if nobody else has written it
    # meanwhile.
    actions = repair(record, owned.get(Ref.of(record)), guarded=True)
    for manifest in wanted:
        actions += repair(manifest, owned.get(Ref.of(manifest)))
    keep = {Ref.of(manifest) for manifest in (record, *wanted)}
    if observed.members:
        keep.add(Ref.of(observed.members.router_file(world)))
    made = [world.find(r.kind, r.name) for r in sorted(keep) if r.kind == "DaemonSet"]
    settled = not actions and all(rolled_out(daemon_set) for daemon_set in made)
    steering = Ref("DaemonSet", names.routers(gateway.name), world.settings.namespace)
    for ref, obj in sorted(owned.items()):
        # Router pods that nobody wants go at once: they hold the host ports that gateway pods on
        # their nodes wait for.
        if ref not in keep and (settled or ref == steering):
            actions.append(Delete(ref, obj["metadata"]["uid"]))
    # Of the clients only those that come and go by themselves: a node that joins a thousand others
    # is no reason to touch a thousand pods.
    mounted = [corefile, *sorted(world.dns_clients)]
    by_node = {name: content_hash(text)[:8] for name, text in decided.by_node.items()}
    where = world.settings.namespace, gateway.name
    news = []
    if observed.members:
        # As it was written: that is another group's work, which may have to wait.
        mounted += [observed.members.files[0], membership.routers_told(gateway.name, world)]
        steered = content_hash(observed.members.files[0])[:16]
        news.append(Announce(*where, steered, routers=True))
    news.append(Announce(*where, content_hash("\n".join(mounted))[:16], by_node))
    actions += [each for each in news if world.announced.get(each.whose) != each.whole]
    return actions


def router_file(observed: Observed, world: World) -> Group | None:
    """Write the list of nodes that steer, if there are any. It is a group of its own: nodes that
    come and go again and again must not delay the rest.
    """
    if observed.members is None or observed.effective is None:
        return None
    manifest = observed.members.router_file(world)
    ref = Ref.of(manifest)
    return Group(ref, tuple(repair(manifest, world.owned.get(ref))))
