"""Where a policy's edit of a Corefile goes, what it is to say, and what is remembered of it."""

from __future__ import annotations

from typing import Any

from nat64_operator.api.gateway import Gateway
from nat64_operator.api.policy import KIND, Mode, Policy
from nat64_operator.coredns import edits, line, wiring
from nat64_operator.coredns.edits import Edit
from nat64_operator.coredns.file import COREFILE, File
from nat64_operator.coredns.record import Record
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.reconcile.actions import Action, Apply, Delete, Emit, WriteCorefile
from nat64_operator.reconcile.drift import differs
from nat64_operator.reconcile.gateways import cluster_address
from nat64_operator.reconcile.world import World
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref

Place = tuple[str, str, str]
"""Namespace and name of a ConfigMap, and the key in it."""


def record_of(policy: str, world: World) -> Record | None:
    """What is remembered of a policy's edit."""
    obj = world.find("ConfigMap", names.wiring_record(policy))
    return Record.read(obj) if obj is not None else None


def place_of(policy: Policy) -> Place:
    """What a policy changes."""
    spec = policy.spec.core_dns
    if spec.mode is Mode.IMPORT:
        return spec.namespace, spec.custom_config_map_name, f"nat64-{policy.name}.override"
    return spec.namespace, spec.config_map_name, COREFILE


def file_at(place: Place, mode: Mode, world: World) -> File:
    """What is there now."""
    return File.of(world.corefiles.get(place[:2]), place, mode)


def recorded_file(record: Record, world: World) -> File:
    """What a record is about, as it is now."""
    return file_at((record.namespace, record.config_map, record.key), record.mode, world)


def is_about(record: Record, policy: Policy) -> bool:
    """Whether a record is about what the policy says today."""
    there = record.namespace, record.config_map, record.key
    return there == place_of(policy) and record.mode is policy.spec.core_dns.mode


def service_of(policy: Policy, world: World) -> Any:
    """The Service of the sidecars that a policy configures."""
    return world.find("Service", names.dns_service(policy.spec.gateway_ref.name))


def ready_sidecars(policy: Policy, world: World) -> int:
    """How many sidecars answer."""
    return world.endpoints.get(names.dns_service(policy.spec.gateway_ref.name), 0)


def edit_of(policy: Policy, gateway: Gateway, world: World) -> Edit | None:
    """What is to be in the Corefile; None while it must not be yet.

    A Corefile is wired only to sidecars that are ready; once it is, a moment without any is what
    failMode is for. Raises UnsupportedCorefileError where an import can't be.
    """
    record = record_of(policy.name, world)
    proven = record is not None and record.confirmed
    address = cluster_address(service_of(policy, world))
    if not address or not (proven or ready_sidecars(policy, world)):
        return None
    return edit_at(policy, gateway.spec.prefix, address, world)


def edit_at(policy: Policy, prefix: str, address: str, world: World) -> Edit:
    """The edit that a policy asks for, were the sidecars at this address."""
    spec = policy.spec.core_dns
    forward = edits.Forward(address, spec.fail_mode)
    plugin = edits.Plugin(prefix, policy.spec.translate_all, policy.spec.allow_ipv4_clients)
    if spec.mode is Mode.PLUGIN:
        return plugin
    if spec.mode is not Mode.IMPORT:
        return forward
    wins = edits.overrides(_corefile(policy, world))
    behind = coredns_upstreams(policy, world) or ("/etc/resolv.conf",)
    content = edits.imported(plugin, forward if wins else None, behind)
    return edits.Import(content, place_of(policy)[2])


def upstreams(policy: Policy, world: World) -> tuple[str, ...]:
    """What the sidecars ask: the policy's, else what CoreDNS asks without us."""
    return policy.spec.upstreams or coredns_upstreams(policy, world)


def coredns_upstreams(policy: Policy, world: World) -> tuple[str, ...]:
    """What CoreDNS asks without us; nothing where that can't be told."""
    own = cluster_address(service_of(policy, world))
    try:
        found = line.find(_corefile(policy, world)).upstreams
    except UnsupportedCorefileError:
        return ()
    return tuple(u for u in found if not own or u not in (own, line.upstream(own)))


def stanza(policy: Policy, prefix: str, address: str, world: World) -> str:
    """What CoreDNS's configuration is to say, for people."""
    text = _corefile(policy, world)
    try:
        edit = edit_at(policy, prefix, address, world)
        original = edits.find(policy.spec.core_dns.mode, text)
    except UnsupportedCorefileError:
        forward = edits.Forward(address, policy.spec.core_dns.fail_mode)
        return forward.wired(line.find(".:53 {\n    forward . /etc/resolv.conf\n}\n"))
    return original.text if edit.names_us(original) else edit.wired(original)


def to_restore(policy: Policy, world: World) -> tuple[File | None, Record | None, Edit | None]:
    """What to unwire, and where there is no record, how to know what is ours.

    Without a record of its own a policy touches a line only if nobody else can have written it:
    not another policy, and not a person who was asked to by the mode Manual.
    """
    record = record_of(policy.name, world)
    if record is not None:
        return recorded_file(record, world), record, None
    mode, place = policy.spec.core_dns.mode, place_of(policy)
    if mode is Mode.MANUAL or place in world.recorded_places():
        return None, None, None
    address = cluster_address(service_of(policy, world)) or policy.status.get("address")
    prefix = policy.status.get("prefix")
    if not address or not prefix:
        return None, None, None
    try:
        edit = edit_at(policy, prefix, address, world)
    except UnsupportedCorefileError:
        return None, None, None
    return file_at(place, mode, world), None, edit


def is_wired(policy: Policy, world: World) -> bool:
    """Whether a Corefile still has something of this policy's."""
    return not wiring.unwire(*to_restore(policy, world)).status


def carry_out(
    policy: str, uid: str, step: wiring.Step, file: File | None, world: World
) -> list[Action]:
    """The actions of a step: the record before the Corefile, and gone only after it."""
    actions: list[Action] = []
    ref = Ref("ConfigMap", names.wiring_record(policy), world.settings.namespace)
    live, record = world.owned.get(ref), record_of(policy, world)
    keep = step.store or record
    if step.forget and live is not None:
        actions.append(Delete(ref, live["metadata"]["uid"]))
    elif keep is not None and differs(manifest := keep.manifest(policy, world.settings), live):
        actions.append(Apply(manifest))
    if step.write is not None and file is not None:
        actions.append(
            WriteCorefile(file.namespace, file.name, file.key, step.write, file.resource_version)
        )
    if step.warning:
        subject = Ref(KIND, policy)
        actions.append(Emit(subject, uid, True, f"Corefile{step.reason}", step.warning[:1024]))
    return actions


def _corefile(policy: Policy, world: World) -> str:
    """CoreDNS's own Corefile, without our edit of it."""
    record = record_of(policy.name, world)
    if record is not None and record.mode in (Mode.FORWARD, Mode.PLUGIN):
        return record.original
    spec = policy.spec.core_dns
    place = (spec.namespace, spec.config_map_name, COREFILE)
    return file_at(place, Mode.FORWARD, world).text
