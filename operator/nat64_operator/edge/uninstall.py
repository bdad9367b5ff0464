"""The uninstall hook: delete all objects while the operator still runs and can clean up."""

from __future__ import annotations

import sys
import time
from typing import Any

from kubernetes import client

from nat64_operator.api import gateway as gateway_api
from nat64_operator.api import policy as policy_api
from nat64_operator.apiserver import TROUBLE, say
from nat64_operator.edge.kube import Kube
from nat64_operator.edge.lifecycle import PSA_LABEL, PSA_MODES
from nat64_operator.reconcile.actions import Delete
from nat64_operator.reconcile.world import get
from nat64_operator.render.manifest import Ref

KINDS = (policy_api.KIND, gateway_api.KIND)
"""Policies first: CoreDNS must not forward to sidecars that are being removed."""


TEST_PODS = "app.kubernetes.io/component=verify"
"""A failed `helm test` leaves its pod, whose log has the reason. Helm never deletes it."""


def run(kube: Kube, timeout: float, namespace: str, *, labelled: bool) -> int:
    """Delete all objects, wait for the end, and print what it waits for. Then delete what nobody
    else would: the pod of `helm test` and, if the operator set them, the Pod Security labels of the
    namespace. Returns the exit code.
    """
    deadline = time.monotonic() + timeout
    said = ""
    while True:
        try:
            waiting = _go_on(kube)
        except TROUBLE as error:
            waiting = f"the API server ({say(error)})"
        if not waiting:
            print("nat64-operator: no gateway and no policy is left", flush=True)
            _delete_test_pods(kube, namespace)
            if labelled:
                _take_labels_back(kube, namespace)
            return 0
        if waiting != said:
            print(f"nat64-operator: waiting for {waiting}", flush=True)
            said = waiting
        if time.monotonic() > deadline:
            print(
                f"nat64-operator: not gone after {timeout:.0f} s: {waiting}. Is the operator "
                "running? `helm uninstall --no-hooks` skips this wait",
                file=sys.stderr,
            )
            return 1
        time.sleep(1)


def _go_on(kube: Kube) -> str:
    """Request the deletion of all objects. Returns what to wait for; empty for nothing."""
    left = [obj for kind in KINDS for obj in _all(kube, kind)]
    for obj in left:
        if not obj["metadata"].get("deletionTimestamp"):
            kube.perform(Delete(Ref.of(obj), obj["metadata"]["uid"]))
    return "; ".join(_describe(obj) for obj in left)


def _delete_test_pods(kube: Kube, namespace: str) -> None:
    try:
        for pod in kube.items("Pod", namespace, TEST_PODS):
            kube.perform(Delete(Ref.of(pod), pod["metadata"]["uid"]))
    except TROUBLE as error:
        print(f"nat64-operator: the pod of helm test stays: {say(error)}", file=sys.stderr)


def _take_labels_back(kube: Kube, namespace: str) -> None:
    for mode in PSA_MODES:
        try:
            kube.label_namespace(namespace, f"{PSA_LABEL}/{mode}", "")
        except TROUBLE as error:
            print(f"nat64-operator: label {PSA_LABEL}/{mode} stays: {say(error)}", file=sys.stderr)


def _all(kube: Kube, kind: str) -> list[dict[str, Any]]:
    try:
        return list(kube.items(kind))
    except client.ApiException as error:
        if error.status == 404:  # without its CRD there is none
            return []
        raise


def _describe(obj: dict[str, Any]) -> str:
    conditions = get(obj, "status", "conditions") or []
    message = next((c["message"] for c in conditions if c["type"] == "Ready"), "")
    return f"{Ref.of(obj)}" + (f" ({message})" if message else "")
