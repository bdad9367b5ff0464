"""The parts of all manifests: a reference, and an annotation with the hash of their content."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from nat64_operator.api.meta import Object
from nat64_operator.render import names


class Ref(NamedTuple):
    """A reference to an object."""

    kind: str
    name: str
    namespace: str = ""

    @classmethod
    def of(cls, obj: Object) -> Ref:
        """The reference to an object."""
        metadata = obj["metadata"]
        return cls(obj["kind"], metadata["name"], metadata.get("namespace", ""))

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {where}{self.name}"


def content_of(value: dict[str, Any]) -> str:
    """The hash of its content."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finish(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with the annotation that names its content."""
    digest = content_of(manifest)
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.REVISION: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def config_map(
    name: str,
    namespace: str,
    labels: dict[str, str],
    data: dict[str, str],
    *,
    immutable: bool = False,
) -> dict[str, Any]:
    """A ConfigMap."""
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "data": data,
    }
    if immutable:
        manifest["immutable"] = True
    return finish(manifest)
