"""`kubectl nat64 version`: the versions of this program, the operator and the agents. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from typing import Any

from nat64_operator.kubectl.exec_output import Json

UNKNOWN = "unknown"


def own() -> str:
    """This program's version."""
    try:
        return metadata.version("nat64-operator")
    except metadata.PackageNotFoundError:
        return UNKNOWN


def build(operators: Iterable[Json], daemon_sets: Iterable[Json]) -> dict[str, Any]:
    """All versions in plain values, as `-o json` prints them."""
    found: dict[str, Any] = {"client": own(), "operator": [], "dataplane": []}
    for obj in operators:
        labels = obj["metadata"].get("labels") or {}
        found["operator"].append(
            {
                "name": obj["metadata"]["name"],
                "version": labels.get("app.kubernetes.io/version", UNKNOWN),
                "image": _image(obj, 0),
            }
        )
    for obj in daemon_sets:
        found["dataplane"].append({"name": obj["metadata"]["name"], "image": _image(obj, 0)})
    return found


def render(found: dict[str, Any]) -> str:
    """For people."""
    lines = [f"client     {found['client']}"]
    lines += [f"operator   {one['version']}  {one['image']}" for one in found["operator"]]
    lines += [f"data plane {one['name']}  {one['image']}" for one in found["dataplane"]]
    others = {one["version"] for one in found["operator"]} - {found["client"], UNKNOWN}
    if others:
        lines.append(
            f"this program is {found['client']}, the operator {', '.join(sorted(others))}: "
            "commands may ask for what the other doesn't know; use the same version of both"
        )
    return "\n".join(lines)


def _image(obj: Json, index: int) -> str:
    return str(obj["spec"]["template"]["spec"]["containers"][index]["image"])
