"""Where a policy edits a Corefile, what it writes there, and the record of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nat64_operator.api.policy import KIND, NODE_RESOLVERS, Mode, Policy, words
from nat64_operator.coredns import corefile_edits, forward_line, root_block, wiring
from nat64_operator.coredns.carried_upstreams import Upstreams, carried
from nat64_operator.coredns.corefile_edits import Edit
from nat64_operator.coredns.observed_corefile import COREFILE, File
from nat64_operator.coredns.root_block import Files
from nat64_operator.coredns.wiring_case import Case
from nat64_operator.coredns.wiring_record import Record, State
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.reconcile.actions import Action, Delete, Disown, Emit, WriteCorefile, WriteKeys
from nat64_operator.reconcile.drift import repair
from nat64_operator.reconcile.gateways import cluster_address
from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref

Place = tuple[str, str, str]
"""Namespace and name of a ConfigMap, and the key in it."""


def record_of(policy: str, world: World) -> Record | None:
    """The record of a policy's edit."""
    return world.records.get(policy)


def place_of(policy: Policy) -> Place:
    """The key that a policy changes."""
    spec = policy.spec.core_dns
    if spec.mode is Mode.IMPORT:
        return spec.namespace, spec.custom_config_map_name, f"nat64-{policy.name}.override"
    return spec.namespace, spec.config_map_name, COREFILE


def file_at(place: Place, mode: Mode, world: World) -> File:
    """The key as observed."""
    return File.of(world.corefiles.get(place[:2]), place, mode)


def is_about(record: Record, policy: Policy) -> bool:
    """Whether a record is about the key that the policy names today."""
    return _place(record) == place_of(policy) and record.mode is policy.spec.core_dns.mode


def service_of(policy: Policy, world: World) -> Any:
    """The Service of the sidecars that a policy configures."""
    return world.find("Service", names.dns_service(policy.spec.gateway_ref.name))


def ready_sidecars(policy: Policy, world: World) -> int:
    """How many sidecars answer."""
    return world.endpoints.get(names.dns_service(policy.spec.gateway_ref.name), 0)


def edit_of(policy: Policy, prefix: str, world: World) -> Edit | None:
    """The edit to make; None while it must not be made yet.

    A Corefile is wired only to sidecars that are ready; once it is wired, failMode handles a moment
    without any. `prefix` is the one that the nodes translate, so a refused one is never used.
    Raises UnsupportedCorefileError if an import is impossible.
    """
    record = record_of(policy.name, world)
    proven = record is not None and record.confirmed
    address = cluster_address(service_of(policy, world))
    if not prefix or not address or not (proven or ready_sidecars(policy, world)):
        return None
    return edit_at(policy, prefix, address, world)


def edit_at(policy: Policy, prefix: str, address: str, world: World) -> Edit:
    """The edit that a policy asks for, with the sidecars at this address."""
    spec = policy.spec
    forward = corefile_edits.Forward(address, spec.core_dns.fail_mode)
    plugin = corefile_edits.Plugin(prefix, spec.translate_all, spec.allow_ipv4_clients)
    if spec.core_dns.mode is Mode.PLUGIN:
        return plugin
    if spec.core_dns.mode is not Mode.IMPORT:
        return forward
    own = place_of(policy)[2]
    text, files = _corefile(policy, world), imports_of(policy, world)
    wins = corefile_edits.overrides(text, own, files)
    forwards = root_block.root(text, files).forwards()
    behind = others(forward_line.find(text, files).upstreams, address) if wins and forwards else ()
    behind = behind or (NODE_RESOLVERS,)
    content = corefile_edits.imported(plugin, forward if wins else None, behind)
    cautious = corefile_edits.imported(plugin, forward.cautious() if wins else None, behind)
    return corefile_edits.Import(content, own, cautious)


def upstreams(policy: Policy, world: World) -> Upstreams:
    """The sidecars' upstreams: those of the policy, else those that CoreDNS asks without us.

    Raises UnsupportedCorefileError if they can't ask as CoreDNS does.
    """
    if policy.spec.upstreams:
        return Upstreams(words(policy.spec.upstreams), policy.spec.forward)
    text = _corefile(policy, world)
    if not text:
        return Upstreams((), policy.spec.forward)
    address, files = cluster_address(service_of(policy, world)), imports_of(policy, world)
    if policy.spec.core_dns.mode is Mode.IMPORT and not root_block.root(text, files).forwards():
        return Upstreams((), policy.spec.forward)  # it forwards nothing without us
    found = forward_line.find(text, files)
    return carried(found, forward_line.upstream(address) if address else "", policy.spec.forward)


def upstreams_or_none(policy: Policy, world: World) -> Upstreams:
    """The same; if they are unknown, the node's own. The status says so, and it isn't wired."""
    try:
        return upstreams(policy, world)
    except UnsupportedCorefileError:
        return Upstreams((), policy.spec.forward)


def refusal_of(policy: Policy, world: World) -> str:
    """Why the sidecars can't ask instead of CoreDNS; empty if they can, or need not."""
    if policy.spec.core_dns.mode is Mode.PLUGIN:
        return ""
    try:
        upstreams(policy, world)
    except UnsupportedCorefileError as error:
        return str(error)
    return ""


def imports_of(policy: Policy, world: World) -> Files:
    """The known files that CoreDNS's Corefile may import, without our own."""
    core_dns = policy.spec.core_dns
    found: dict[str, str] = {}
    for name in (core_dns.config_map_name, core_dns.custom_config_map_name):
        place = core_dns.namespace, name
        found.update(get(world.corefiles.get(place), "data") or {})
        found.update({root_block.UNREAD: "/".join(place)} if place in world.unreadable else {})
    ours = {record.key for record in world.records.values()} | {place_of(policy)[2], COREFILE}
    return {key: str(text) for key, text in found.items() if key not in ours}


def others(names_given: Iterable[str], address: str) -> tuple[str, ...]:
    """The upstreams without the sidecars."""
    ours = (address, forward_line.upstream(address))
    return tuple(name for name in names_given if name not in ours)


def stanza(policy: Policy, prefix: str, address: str, world: World) -> str:
    """The stanza for CoreDNS's configuration, for people to paste."""
    text = _corefile(policy, world)
    try:
        edit = edit_at(policy, prefix, address, world)
        original = corefile_edits.find(policy.spec.core_dns.mode, text, imports_of(policy, world))
    except UnsupportedCorefileError:
        forward = corefile_edits.Forward(address, policy.spec.core_dns.fail_mode)
        return forward.wired(forward_line.find(".:53 {\n    forward . /etc/resolv.conf\n}\n"))
    return original.text if edit.names_us(original) else edit.wired(original)


def case_of(policy: Policy, prefix: str, edit: Edit | None, world: World) -> Case:
    """The case of a policy's Corefile, as it is to be wired."""
    mode = policy.spec.core_dns.mode
    return Case(
        edit,
        file_at(place_of(policy), mode, world),
        record_of(policy.name, world),
        world.answers.get(policy.name),
        world.now,
        world.settings,
        policy.spec.gateway_ref.name,
        prefix,
        _corefile(policy, world) if mode is Mode.IMPORT else "",
        imports_of(policy, world),
    )


def case_to_restore(policy: Policy, world: World) -> Case:
    """The case of what a policy did, which may be in another file than it names today."""
    case = case_of(policy, "", None, world)
    if case.record is not None:
        return recorded_case(policy.name, case.record, world)
    return case._replace(edit=_unrecorded_edit(policy, world))


def recorded_case(policy: str, record: Record, world: World) -> Case:
    """The case of a record."""
    file = file_at((record.namespace, record.config_map, record.key), record.mode, world)
    answer = world.answers.get(policy)
    return Case(
        None, file, record, answer, world.now, world.settings, record.gateway, record.prefix
    )


def _unrecorded_edit(policy: Policy, world: World) -> Edit | None:
    """The edit to look for if there is no record.

    A policy touches a line only if nobody else can have written it: no other policy, and no person
    who was asked to by the mode Manual.
    """
    mode, place = policy.spec.core_dns.mode, place_of(policy)
    if mode is Mode.MANUAL or place in {_place(record) for record in world.records.values()}:
        return None
    address = cluster_address(service_of(policy, world)) or policy.status.get("address")
    prefix = policy.status.get("prefix")
    if not address or not prefix:
        return None
    try:
        return edit_at(policy, prefix, address, world)
    except UnsupportedCorefileError:
        return None


def wired_gateways(policies: Iterable[Policy], world: World) -> set[str]:
    """Gateways whose sidecars CoreDNS may still ask."""
    wired = {record.gateway for record in world.records.values()}
    for policy in policies:
        if policy.spec.gateway_ref.name not in wired and _is_wired(policy, world):
            wired.add(policy.spec.gateway_ref.name)
    return wired


def _is_wired(policy: Policy, world: World) -> bool:
    try:
        return not wiring.unwire(case_to_restore(policy, world)).status
    except Exception:  # the policy's own status says so; waiting is the safe choice
        return True


def carry_out(policy: str, uid: str, step: wiring.Step, file: File, world: World) -> list[Action]:
    """The actions of a step. The record is written before the Corefile, and deleted after it."""
    actions: list[Action] = []
    ref = Ref("ConfigMap", names.wiring_record(policy), world.settings.namespace)
    live, record = world.owned.get(ref), record_of(policy, world)
    keep = step.store or record
    if step.forget and live is not None:
        actions.append(Delete(ref, live["metadata"]["uid"]))
    elif keep is not None:
        actions += repair(keep.manifest(policy, world.settings), live)
    actions += back_up(policy, None if step.forget else keep, world)
    if step.write is not None:
        actions.append(_write(step.write, file, keep, world))
    elif file.left is not None and file.key == COREFILE:
        ref = Ref("ConfigMap", file.name, file.namespace)
        actions.append(Disown(ref, file.left, file.resource_version))
    if step.warning:
        subject = Ref(KIND, policy)
        actions.append(Emit(subject, uid, True, f"Corefile{step.reason}", step.warning[:1024]))
    return actions


def back_up(policy: str, record: Record | None, world: World) -> list[Action]:
    """Keep a copy of the record beside CoreDNS: after somebody has deleted our namespace, they must
    be able to restore CoreDNS's file. The copy is written before the file, and deleted only after
    the record.
    """
    actions: list[Action] = []
    found = {place: obj for place, obj in world.corefiles.items() if place[1] == names.BACKUP}
    wanted = record.backup(policy) if record is not None else {}
    for (namespace, name), obj in found.items():
        data = obj.get("data") or {}
        here = wanted if record is not None and record.namespace == namespace else {}
        old = {key for key in data if key.rpartition(".")[0] == policy and key not in here}
        if old and not here and old == data.keys():
            ref, metadata = Ref("ConfigMap", name, namespace), obj["metadata"]
            actions.append(Delete(ref, metadata["uid"], metadata["resourceVersion"]))
        elif old or any(data.get(key) != text for key, text in here.items()):
            changes = {**dict.fromkeys(sorted(old)), **here}
            actions.append(WriteKeys(namespace, name, changes, exists=True))
    if record is not None and (record.namespace, names.BACKUP) not in found:
        actions.append(WriteKeys(record.namespace, names.BACKUP, {**wanted}, exists=False))
    return actions


def _write(text: str, file: File, record: Record | None, world: World) -> Action:
    """Write a file. A ConfigMap that we created is deleted with our last key in it."""
    found = world.corefiles.get((file.namespace, file.name))
    if not text and record is not None and record.made and found is not None:
        keys = {*(found.get("data") or {}), *(found.get("binaryData") or {})}
        if keys == {file.key}:
            ref = Ref("ConfigMap", file.name, file.namespace)
            return Delete(ref, found["metadata"]["uid"], file.resource_version)
    return WriteCorefile(file.namespace, file.name, file.key, text, file.resource_version)


def _place(record: Record) -> Place:
    return record.namespace, record.config_map, record.key


def _corefile(policy: Policy, world: World) -> str:
    """CoreDNS's own Corefile, without our edit of it."""
    record = record_of(policy.name, world)
    edited = record is not None and record.state is not State.DRAINING
    if record is not None and edited and record.mode in (Mode.FORWARD, Mode.PLUGIN):
        return record.original
    spec = policy.spec.core_dns
    place = (spec.namespace, spec.config_map_name, COREFILE)
    return file_at(place, Mode.FORWARD, world).text
