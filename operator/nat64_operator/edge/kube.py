"""The verbs of the API server that the operator needs, and how it carries out an action.

Synchronous: the loop calls it from a thread.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubernetes import client

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.api.meta import API_VERSION
from nat64_operator.apiserver import Connection, Json, Timeout
from nat64_operator.edge import events, metrics
from nat64_operator.reconcile.actions import (
    Action,
    Announce,
    Apply,
    Delete,
    Disown,
    Emit,
    Replace,
    SetFinalizers,
    SetStatus,
    Untaint,
    WriteCorefile,
    WriteKeys,
)
from nat64_operator.reconcile.startup_taint import without_taint
from nat64_operator.render import names
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import FIELD_MANAGER

TIMEOUT = (5, 20)
"""Seconds to connect and to answer."""
SETTLE_SECONDS = 0.2
AT_ONCE = 8
"""How many pods are annotated at a time."""
PAGE = 200
"""Objects in one answer of a list: bounds memory where there are thousands of nodes."""

_PATHS = {
    "ConfigMap": ("api/v1", "configmaps"),
    "Service": ("api/v1", "services"),
    "Pod": ("api/v1", "pods"),
    "Node": ("api/v1", "nodes"),
    "DaemonSet": ("apis/apps/v1", "daemonsets"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
    "ServiceCIDR": ("apis/networking.k8s.io/v1", "servicecidrs"),
    "EndpointSlice": ("apis/discovery.k8s.io/v1", "endpointslices"),
    "CiliumNode": ("apis/cilium.io/v2", "ciliumnodes"),
    "IPAMBlock": ("apis/crd.projectcalico.org/v1", "ipamblocks"),
    gateway_api.KIND: (f"apis/{API_VERSION}", gateway_api.PLURAL),
    policy_api.KIND: (f"apis/{API_VERSION}", policy_api.PLURAL),
}
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_APPLY = "application/apply-patch+yaml"


FORBIDDEN: Json = {}
"""In place of an object that may not be read."""


class Kube:
    """The API server, for the operator."""

    def __init__(self, api: client.ApiClient, timeout: Timeout = TIMEOUT) -> None:
        self._api, self._timeout = api, timeout
        self._connection = Connection(api, timeout, PAGE, _count)

    @property
    def answered(self) -> float:
        """When the last request ended, with or without success."""
        return self._connection.answered

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._connection.in_flight == 0

    def separate(self) -> Kube:
        """The same API server, where a request that ends does not move this one's `answered`."""
        return Kube(self._api, self._timeout)

    def perform(self, action: Action) -> Json | None:
        """Carry one action out. Returns the object as it is now, or None."""
        match action:
            case Apply(manifest, version):
                if version:
                    meta = {**manifest["metadata"], "resourceVersion": version}
                    manifest = {**manifest, "metadata": meta}
                query = {"fieldManager": FIELD_MANAGER, "force": "true"}
                return self._call("PATCH", Ref.of(manifest), query, manifest, _APPLY)
            case Replace(manifest, version):
                query = {"fieldManager": FIELD_MANAGER}
                steps = [
                    {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                    *(
                        {"op": "add", "path": f"/{part}", "value": manifest.get(part, {})}
                        for part in (["spec"] if "spec" in manifest else ["data", "binaryData"])
                    ),
                ]
                return self._call("PATCH", Ref.of(manifest), query, steps, _JSON_PATCH)
            case Delete(ref, uid, version):
                conditions = {"uid": uid, **({"resourceVersion": version} if version else {})}
                body = {"preconditions": conditions, "propagationPolicy": "Background"}
                try:
                    self._call("DELETE", ref, {}, body)
                except client.ApiException as error:
                    if error.status not in (404, 409):  # it is gone, or another object has its name
                        raise
                return None
            case SetStatus(ref, fields):
                body = {
                    "apiVersion": API_VERSION,
                    "kind": ref.kind,
                    "metadata": {"name": ref.name},
                    "status": fields,
                }
                query = {"fieldManager": FIELD_MANAGER, "force": "true"}
                return self._call("PATCH", ref, query, body, _APPLY, "/status")
            case SetFinalizers(ref, finalizers, version):
                meta = {"finalizers": list(finalizers), "resourceVersion": version}
                return self.merge(ref, {"metadata": meta})
            case WriteCorefile():
                return self._write(action)
            case WriteKeys(namespace, name, data, exists):
                ref, body = Ref("ConfigMap", name, namespace), {"data": data}
                if exists:
                    return self.merge(ref, body)
                labels = names.common_labels()
                kept = {key: text for key, text in data.items() if text is not None}
                return self.create(ref, {"data": kept}, labels)
            case Disown(ref, managed_fields, version):
                steps = [
                    {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                    # With an empty list, the client would seem not to know the field.
                    {
                        "op": "replace",
                        "path": "/metadata/managedFields",
                        "value": list(managed_fields) or [{}],
                    },
                ]
                return self._call("PATCH", ref, {"fieldManager": FIELD_MANAGER}, steps, _JSON_PATCH)
            case Untaint(node, key):
                found = self.get(Ref("Node", node))
                return self.merge(Ref("Node", node), without_taint(found, key)) if found else None
            case Announce():
                self._announce(action)
                return None
            case Emit():
                events.emit(self._connection, action)
                return None

    def config_map(self, namespace: str, name: str) -> Json | None:
        """A ConfigMap; None where it does not exist, FORBIDDEN where it may not be read."""
        try:
            return self.get(Ref("ConfigMap", name, namespace))
        except client.ApiException as error:
            if error.status == 403:
                return FORBIDDEN
            raise

    def get(self, ref: Ref) -> Json | None:
        """An object; None where it does not exist."""
        try:
            return self._call("GET", ref)
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise

    def create(self, ref: Ref, body: Json, labels: dict[str, str] | None = None) -> Json:
        """Create an object."""
        body = {"metadata": {"name": ref.name, "labels": labels or {}}, **body}
        return self._call("POST", ref._replace(name=""), {"fieldManager": FIELD_MANAGER}, body)

    def merge(self, ref: Ref, body: Json) -> Json:
        """Change fields of an existing object by a JSON merge patch."""
        return self._call("PATCH", ref, {"fieldManager": FIELD_MANAGER}, body, _MERGE)

    def serves(self, kind: str) -> bool:
        """Whether the API server serves a kind of ours."""
        try:
            self._call("GET", Ref(kind, ""), {"limit": "1"})
        except client.ApiException as error:
            if error.status == 404:
                return False
            raise
        return True

    def version(self) -> tuple[int, int]:
        """Major and minor of the API server; zeros where it doesn't say numbers."""
        found = self._connection.request("GET", "/version", {})
        numbers = [re.match(r"\d*", str(found.get(key) or "")) for key in ("major", "minor")]
        major, minor = (int(n[0]) if n and n[0] else 0 for n in numbers)
        return major, minor

    def label_namespace(self, name: str, label: str, value: str) -> None:
        """Set a label of a namespace or, with an empty value, remove the one that was set here.
        Raises ApiException with status 409 where another field manager owns it.
        """
        metadata = {"name": name, "labels": {label: value} if value else {}}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        # One field manager per label: to apply one label must not remove another.
        query = {"fieldManager": f"{FIELD_MANAGER}-{label.rpartition('/')[2]}"}
        self._connection.request("PATCH", f"/api/v1/namespaces/{name}", query, body, _APPLY)

    def items(self, kind: str, namespace: str = "", selector: str = "") -> Iterator[Json]:
        """All objects of a kind, a page at a time."""
        version = _PATHS[kind][0].partition("/")[2]
        query = {"labelSelector": selector} if selector else {}
        for item in self._connection.items(_path(Ref(kind, "", namespace)), query):
            yield {"apiVersion": version, "kind": kind, **item}

    def newest_event(self, ref: Ref, reason: str) -> tuple[str, str]:
        """The same as `events.newest`."""
        return events.newest(self._connection, ref, reason)

    def _write(self, action: WriteCorefile) -> Json:
        ref = Ref("ConfigMap", action.name, action.namespace)
        data = {action.key: action.text or None}
        if not action.resource_version:
            return self.create(ref, {"data": data})
        body = {"metadata": {"resourceVersion": action.resource_version}, "data": data}
        return self.merge(ref, body)

    def _announce(self, action: Announce) -> None:
        # The kubelet hears of the pod and of the data by two watches, and must not read before it
        # has the data.
        settled = time.monotonic() + SETTLE_SECONDS
        labels_of = names.router_labels if action.routers else names.pod_labels
        labels = labels_of(action.gateway)
        selector = ",".join(f"{key}={value}" for key, value in labels.items())

        def outdated() -> Iterator[tuple[Ref, str]]:
            for pod in self.items("Pod", action.namespace, selector):
                metadata = pod["metadata"]
                content = action.of_node(pod["spec"].get("nodeName") or "")
                if (metadata.get("annotations") or {}).get(names.MOUNTED) != content:
                    yield Ref("Pod", metadata["name"], action.namespace), content

        def annotate(pod: tuple[Ref, str]) -> None:
            ref, content = pod
            time.sleep(max(settled - time.monotonic(), 0))
            try:
                self.merge(ref, {"metadata": {"annotations": {names.MOUNTED: content}}})
            except client.ApiException as error:
                if error.status != 404:  # it is gone
                    raise

        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            # Its order is that of the list: the first error is raised once all have been tried.
            list(pool.map(annotate, outdated()))

    def _call(
        self,
        method: str,
        ref: Ref,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        subresource: str = "",
    ) -> Json:
        path = _path(ref) + subresource
        return self._connection.request(method, path, query, body, content_type)


def _path(ref: Ref) -> str:
    """Where an object is, or without a name all objects of its kind."""
    prefix, plural = _PATHS[ref.kind]
    scope = f"/namespaces/{ref.namespace}" if ref.namespace else ""
    return f"/{prefix}{scope}/{plural}" + (f"/{ref.name}" if ref.name else "")


def _count(method: str, code: str) -> None:
    metrics.REQUESTS.labels(method, code).inc()
