"""An API server, as far as `reconcile` can tell: it stores what it is told, and time passes."""

import copy
import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nat64_operator.coredns.wiring_case import Answer
from nat64_operator.reconcile import Node, Pod, World, reconcile
from nat64_operator.reconcile.actions import (
    Announce,
    Apply,
    Delete,
    Disown,
    Emit,
    Plan,
    Replace,
    SetFinalizers,
    SetStatus,
    WriteCorefile,
    WriteKeys,
)
from nat64_operator.reconcile.status import timestamp
from nat64_operator.render.manifest import Ref
from nat64_operator.render.removal import excluded_labels, excluded_nodes, nodes_by_name
from nat64_operator.settings import Settings
from tests.unit.node_simulation import Machines, removes

SETTINGS = Settings(dataplane_image="dataplane:test")
NAMESPACE = SETTINGS.namespace
COREFILE = (Path(__file__).parent / "corefiles" / "kubeadm-1.33").read_text()
COREDNS = ("kube-system", "coredns")
BACKUP = ("kube-system", "nat64-wiring")
CUSTOM = ("kube-system", "coredns-custom")

Object = dict[str, Any]


class Simulation:
    """State, and the actions that change it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.settings = SETTINGS
        self.custom: dict[str, dict[str, Object]] = {"NAT64Gateway": {}, "DNS64Policy": {}}
        self.owned: dict[Ref, Object] = {}
        self.nodes = {"node1": Node("node1", {"kubernetes.io/os": "linux"}, True, ("fd00::/64",))}
        self.service_ranges: tuple[str, ...] = ()
        self.corefile: Any = {
            "metadata": {"namespace": COREDNS[0], "name": COREDNS[1], "resourceVersion": "1"},
            "data": {"Corefile": COREFILE},
        }
        self.custom_files: Any = None
        self.backup: Any = None
        """Beside CoreDNS's own ConfigMap."""
        self.announced: dict[str, str] = {}
        self.api_version = (0, 0)
        self.synthesizes = True
        self.unfit = ""
        """Why the sidecars, asked directly, are not what CoreDNS should ask."""
        self.harms = False
        """Whether CoreDNS's questions are refused by the sidecars."""
        self.fails = ""
        """How names that need an upstream fail, whoever is asked."""
        self.dns_clients: frozenset[str] = frozenset()
        self.dns_pods: frozenset[tuple[str, str]] = frozenset()
        self.rolls_out = True
        self.machines: Machines | None = None
        """What translators hold on nodes; without it each pod is ready at once."""
        self.known_nodes: dict[str, Node] | None = None
        """What the operator knows of the nodes, where it missed events."""
        self.sidecars = 1
        """How many answer, once rolled out."""
        self.seen_pods: dict[str, tuple[Pod, ...]] = {}
        self.unserved: dict[str, tuple[Pod, ...]] = {}
        """The pods with sidecars, where none of them is ready."""
        self.lags = False
        """CoreDNS goes by what it read before."""
        self.events: list[Emit] = []
        self.refuse: Callable[[Any], bool] = lambda _: False
        self._numbers = itertools.count(2)
        self.refused: dict[Ref, str] = {}
        self._answers: dict[str, Answer] = {}
        self._left_behind: dict[str, float] = {}

    def create(self, kind: str, name: str, **spec: Any) -> None:
        number = next(self._numbers)
        self.custom[kind][name] = {
            "kind": kind,
            "metadata": {
                "name": name,
                "uid": f"uid-{number}",
                "generation": 1,
                "resourceVersion": str(number),
                "creationTimestamp": f"2026-11-24T07:00:{len(self.custom[kind]):02}Z",
            },
            "spec": spec,
        }

    def edit(self, kind: str, name: str, **spec: Any) -> None:
        obj = self.custom[kind][name]
        obj["spec"] = spec
        obj["metadata"]["generation"] += 1

    def delete(self, kind: str, name: str) -> None:
        obj = self.custom[kind][name]
        if obj["metadata"].get("finalizers"):
            obj["metadata"]["deletionTimestamp"] = timestamp(self.now)
        else:
            del self.custom[kind][name]

    def world(self) -> World:
        ready = {
            ref.name: self.sidecars * len(self._rolled_out(ref.name.removesuffix("-dns")))
            for ref in self.owned
            if ref.kind == "Service"
        }
        pods: dict[str, tuple[Pod, ...]] = {}
        for ref, obj in self.owned.items():
            if ref.kind != "DaemonSet" or ref.name.endswith(".leaving"):
                continue
            router = ref.name.endswith(".routers")
            gateway = ref.name.removeprefix("nat64-").removesuffix(".routers")
            pods[gateway] = pods.get(gateway, ()) + tuple(
                Pod(node, removes(obj), self._is_ready(obj, node), router=router)
                for node in self.scheduled(obj)
            )
        world = copy.deepcopy(
            World(
                now=self.now,
                settings=self.settings,
                gateways=self.custom["NAT64Gateway"],
                policies=self.custom["DNS64Policy"],
                nodes=self.nodes if self.known_nodes is None else self.known_nodes,
                service_ranges=self.service_ranges,
                owned=self.owned,
                endpoints=ready,
                dns_clients=self.dns_clients,
                dns_pods=self.dns_pods,
                announced=self.announced,
                api_version=self.api_version,
                corefiles={
                    key: obj
                    for key, obj in (
                        (COREDNS, self.corefile),
                        (CUSTOM, self.custom_files),
                        (BACKUP, self.backup),
                    )
                    if obj
                },
                answers=self._answers,
                pods={**pods, **self.seen_pods},
                unserved=self.unserved,
                refused=self.refused,
                left_behind=self._left_behind,
            )
        )
        gone = world.gateways_left_behind()
        self._left_behind = {name: self._left_behind.get(name, self.now) for name in gone}
        return world

    def step(self) -> Plan:
        """Decide once and carry it out; nodes and DNS follow at once."""
        plan = reconcile(self.world())
        for defect in plan.defects:
            raise defect.error
        for group in plan.groups:
            for action in group.actions:
                if self.refuse(action) or self._is_late(action):
                    break
                self._perform(action)
        for question in plan.questions:
            said = str((self.corefile, self.custom_files))
            wired = "[fd00:" in said or "dns64" in said
            synthesized = self.synthesizes and (wired or self.lags)
            # The sidecars are in the way of what CoreDNS asks, in the modes that ask them.
            harmed = self.harms and "[fd00:" in said
            self._answers[question.policy] = Answer(
                synthesized and not harmed,
                "said",
                self.now,
                clear=not synthesized,
                failure=self.fails or ("REFUSED" if harmed else ""),
                ours=harmed,
                probed=question.probe,
                unfit=self.unfit if question.sidecars else "",
            )
        if self.rolls_out:
            for obj in self.owned.values():
                if obj["kind"] == "DaemonSet":
                    nodes = self.scheduled(obj)
                    ready = sum(self._is_ready(obj, node) for node in nodes)
                    obj["status"] = {
                        "observedGeneration": obj["metadata"]["generation"],
                        "desiredNumberScheduled": len(nodes),
                        "updatedNumberScheduled": len(nodes),
                        "numberReady": ready,
                    }
        self.now += 1
        return plan

    def settle(self, limit: int = 40) -> None:
        """Until there is nothing to do, and nothing is asked that has to be known first."""
        for _ in range(limit):
            plan = self.step()
            if not plan.groups and not any(question.probe for question in plan.questions):
                return
        raise AssertionError(f"it goes on for ever: {self.step()}")

    def text(self) -> str:
        assert self.corefile is not None
        text: str = self.corefile["data"]["Corefile"]
        return text

    def write_corefile(self, text: str) -> None:
        """Someone else does."""
        self.corefile = {
            "metadata": {
                "namespace": COREDNS[0],
                "name": COREDNS[1],
                "resourceVersion": str(next(self._numbers)),
                "managedFields": [
                    {
                        "manager": "someone",
                        "operation": "Update",
                        "time": "2026-11-24T08:00:00Z",
                        "fieldsV1": {"f:data": {"f:Corefile": {}}},
                    }
                ],
            },
            "data": {"Corefile": text},
        }

    def condition(self, kind: str, name: str, type_: str) -> tuple[str, str, str]:
        for found in self.custom[kind][name]["status"]["conditions"]:
            if found["type"] == type_:
                return found["status"], found["reason"], found["message"]
        raise AssertionError(f"no condition {type_}")

    def everything(self) -> Any:
        """All that is there, without what differs from run to run."""
        owned = {
            ref: {k: v for k, v in obj.items() if k in ("spec", "data", "immutable")}
            for ref, obj in self.owned.items()
            # Which node has which address of a range depends on the way.
            if not ref.name.startswith("nat64.wiring.") and not ref.name.endswith(".nodes")
        }
        return owned, self.corefile and self.text()

    def _rolled_out(self, name: str) -> list[str]:
        found = self.owned.get(Ref("DaemonSet", name, NAMESPACE))
        good = found and found.get("status") and not removes(found)
        return self.scheduled(found) if found and good else []

    def scheduled(self, daemon_set: Object) -> list[str]:
        """The nodes that a DaemonSet selects: all that are there, by labels or by names."""
        named, excluded = nodes_by_name(daemon_set), excluded_nodes(daemon_set)
        avoided = excluded_labels(daemon_set)
        selector = daemon_set["spec"]["template"]["spec"].get("nodeSelector") or {}
        return [
            node.name
            for node in self.nodes.values()
            if node.matches(selector)
            and (not named or node.name in named)
            and node.name not in excluded
            and not (avoided and node.matches(avoided))
        ]

    def _is_ready(self, daemon_set: Object, node: str) -> bool:
        return self.machines is None or self.machines.is_done(self, daemon_set, node)

    def _is_late(self, action: Any) -> bool:
        """Whether something was written since it was looked at, which is a conflict."""
        if isinstance(action, Apply) and action.resource_version:
            there = self.owned.get(Ref.of(action.manifest))
            return not there or there["metadata"]["resourceVersion"] != action.resource_version
        if isinstance(action, WriteKeys):
            return action.exists != (self.backup is not None)
        if not isinstance(action, WriteCorefile) or not action.resource_version:
            return False
        found = self.corefile if action.name == COREDNS[1] else self.custom_files
        return not found or action.resource_version != found["metadata"]["resourceVersion"]

    def _perform(self, action: Any) -> None:
        version = str(next(self._numbers))
        match action:
            case Apply(manifest):  # a late one is not performed
                ref = Ref.of(manifest)
                new = copy.deepcopy(manifest)
                old = self.owned.get(ref)
                if old and old.get("immutable"):
                    assert old["data"] == new["data"], f"{ref} is immutable"
                new["metadata"]["uid"] = old["metadata"]["uid"] if old else f"uid-{version}"
                generation = old["metadata"]["generation"] if old else 0
                changed = old is None or old.get("spec") != new.get("spec")
                new["metadata"]["generation"] = generation + changed
                new["metadata"]["resourceVersion"] = version
                if old and "status" in old:
                    new["status"] = old["status"]
                if ref.kind == "Service":
                    new["spec"]["clusterIP"] = f"fd00::{zlib.crc32(ref.name.encode()) & 0xFFFF:x}"
                if old and "managedFields" in old["metadata"]:
                    new["metadata"]["managedFields"] = old["metadata"]["managedFields"]
                self.owned[ref] = new
            case Replace(manifest, version_seen):
                found = self.owned[Ref.of(manifest)]
                assert found["metadata"]["resourceVersion"] == version_seen
                found["metadata"].pop("managedFields", None)
                found["metadata"]["resourceVersion"] = version
                if "data" in manifest:
                    found["data"] = copy.deepcopy(manifest["data"])
                    return
                address = found["spec"].get("clusterIP")
                found["spec"] = copy.deepcopy(manifest["spec"])
                found["spec"] |= {"clusterIP": address} if address else {}
                found["metadata"]["generation"] += 1
            case Delete(ref, _) if (ref.namespace, ref.name) == CUSTOM:
                self.custom_files = None
            case Delete(ref, _, seen) if (ref.namespace, ref.name) == BACKUP:
                if self.backup and seen == self.backup["metadata"]["resourceVersion"]:
                    self.backup = None
            case WriteKeys(namespace, name, data, exists):
                assert (namespace, name) == BACKUP
                assert exists == (self.backup is not None)
                if not exists:
                    self.backup = {"metadata": {"uid": f"uid-{version}"}, "data": {}}
                self.backup["metadata"]["resourceVersion"] = version
                kept = {**self.backup["data"], **data}
                self.backup["data"] = {key: text for key, text in kept.items() if text is not None}
            case Disown(ref, managed_fields, _):
                assert (ref.namespace, ref.name) == COREDNS
                self.corefile["metadata"]["managedFields"] = list(managed_fields)
            case Announce():
                self.announced[action.whose] = action.whole
            case Delete(ref, uid):
                if ref in self.owned and self.owned[ref]["metadata"]["uid"] == uid:
                    del self.owned[ref]
            case SetStatus(ref, status):
                self.custom[ref.kind][ref.name]["status"] = copy.deepcopy(status)
            case SetFinalizers(ref, finalizers, _):
                obj = self.custom[ref.kind][ref.name]
                obj["metadata"]["finalizers"] = list(finalizers)
                if obj["metadata"].get("deletionTimestamp") and not finalizers:
                    del self.custom[ref.kind][ref.name]
            case WriteCorefile(namespace, name, key, text, version_seen):
                found = self.corefile if name == COREDNS[1] else self.custom_files
                if not version_seen:
                    assert found is None
                    metadata = {"namespace": namespace, "name": name, "uid": f"uid-{version}"}
                    found = self.custom_files = {"metadata": metadata, "data": {}}
                found["metadata"]["resourceVersion"] = version
                found["data"] = {**found["data"], key: text}
                if not text:
                    del found["data"][key]
            case Emit():
                self.events.append(action)
