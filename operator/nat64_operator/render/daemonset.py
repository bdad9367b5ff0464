"""What all DaemonSets of a gateway have in common: the pods' place on the node, and the rollout."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nat64_operator.render import names
from nat64_operator.render.containers import BPF_DIR, RUN_DIR
from nat64_operator.render.manifest import content_of, finish
from nat64_operator.settings import Settings

EXCLUDING = "NotIn"
"""Kubernetes' operator of a node affinity that keeps pods off nodes."""
DNS64_GRACE_SECONDS = 30
"""Longer than the sidecar's lameduck period, in which it answers until CoreDNS has moved on."""


def daemon_set(
    name: str,
    settings: Settings,
    pod: dict[str, Any],
    *,
    match: dict[str, str],
    labels: dict[str, str],
    max_unavailable: int | str | None,
) -> dict[str, Any]:
    """A DaemonSet. `match` selects its pods; `labels` are on it and on them. Without a
    `max_unavailable`, a pod is replaced only when somebody deletes it.
    """
    more = settings.pod_annotations
    on_them = {**settings.pod_labels, **labels}
    strategy: dict[str, Any] = {"type": "OnDelete"}
    if max_unavailable is not None:
        limits = {"maxUnavailable": max_unavailable, "maxSurge": 0}
        strategy = {"type": "RollingUpdate", "rollingUpdate": limits}
    return finish(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": name, "namespace": settings.namespace, "labels": labels},
            "spec": {
                "selector": {"matchLabels": match},
                "revisionHistoryLimit": 3,
                "updateStrategy": strategy,
                "template": {
                    "metadata": {
                        "labels": on_them,
                        "annotations": {
                            **more,
                            "kubectl.kubernetes.io/default-container": "translator",
                            names.TEMPLATE: content_of(
                                {"labels": on_them, "more": more, "spec": pod}
                            ),
                        },
                    },
                    "spec": pod,
                },
            },
        }
    )


def pod(
    settings: Settings,
    selector: dict[str, str],
    tolerations: Sequence[dict[str, Any]],
    config_name: str,
) -> dict[str, Any]:
    """A pod on the host network, without a token, before its containers are added."""
    made: dict[str, Any] = {
        "hostNetwork": True,
        # The node's resolvers: cluster DNS must not depend on itself.
        "dnsPolicy": "Default",
        "priorityClassName": settings.priority_class,
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": DNS64_GRACE_SECONDS,
        "nodeSelector": selector,
        "tolerations": list(tolerations),
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "config", "configMap": {"name": config_name, "defaultMode": 0o444}},
            {"name": "bpf", "hostPath": {"path": BPF_DIR, "type": "DirectoryOrCreate"}},
            {"name": "run", "hostPath": {"path": RUN_DIR, "type": "DirectoryOrCreate"}},
        ],
    }
    if settings.image_pull_secrets:
        made["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return made


def affinity(avoided: Mapping[str, str], kept_off: Collection[str]) -> dict[str, Any]:
    """Keeps pods off nodes that have all of these labels, and off nodes by name."""
    # A field can have one value only. All requirements of a term must hold, and one term.
    others = [
        {"key": "metadata.name", "operator": EXCLUDING, "values": [node]}
        for node in sorted(kept_off)
    ]
    named = {"matchFields": others} if others else {}
    terms: list[dict[str, Any]] = [
        {"matchExpressions": [{"key": key, "operator": EXCLUDING, "values": [value]}], **named}
        for key, value in sorted(avoided.items())
    ]
    required = {"nodeSelectorTerms": terms or [named]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
