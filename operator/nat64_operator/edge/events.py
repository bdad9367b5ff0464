"""Events: ours about custom resources, and others' about what was made."""

from __future__ import annotations

import hashlib

from kubernetes import client

from nat64_operator.api.meta import API_VERSION
from nat64_operator.apiserver import Connection
from nat64_operator.reconcile import status
from nat64_operator.reconcile.actions import Emit
from nat64_operator.render.manifest import Ref
from nat64_operator.settings import FIELD_MANAGER

_MERGE = "application/merge-patch+json"
EVENTS_NAMESPACE = "default"
"""Where Kubernetes keeps the Events of objects that have no namespace."""


def emit(connection: Connection, event: Emit) -> None:
    """Post an Event, or count it where it is there. Raises ApiException."""
    now = status.now_text()
    # The same message about the same object is one Event that is counted.
    content = "\n".join((event.uid, event.reason, event.message))
    name = f"{event.ref.name}.{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    body = {
        "metadata": {"name": name},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": event.ref.kind,
            "name": event.ref.name,
            "uid": event.uid,
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
    }
    events = f"/api/v1/namespaces/{EVENTS_NAMESPACE}/events"
    try:
        connection.request("POST", events, {}, body)
    except client.ApiException as error:
        if error.status != 409:
            raise
        # The answer to a patch has the count, so no right to read Events is needed.
        seen = {"lastTimestamp": now}
        known = connection.request("PATCH", f"{events}/{name}", {}, seen, _MERGE)
        again = {"count": int(known.get("count") or 1) + 1}
        connection.request("PATCH", f"{events}/{name}", {}, again, _MERGE)


def newest(connection: Connection, ref: Ref, reason: str) -> tuple[str, str]:
    """When the last Event of this reason about an object was, as text, and its message; empty
    where there is none.
    """
    about = f"involvedObject.kind={ref.kind},involvedObject.name={ref.name},reason={reason}"
    path = f"/api/v1/namespaces/{ref.namespace}/events"
    found = [
        (str(e.get("lastTimestamp") or e.get("eventTime") or ""), str(e.get("message") or ""))
        for e in connection.items(path, {"fieldSelector": about})
    ]
    return max(found, default=("", ""))
