"""`python -m scripts.reference`: writes docs/configuration.md from the CRDs.

The CRDs are the one source: what `kubectl explain` says, this file says too. A test compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[1]
TARGET = REPO / "docs" / "configuration.md"
SOURCES = ("nat64gateways.yaml", "dns64policies.yaml")

Schema = dict[str, Any]

_HEAD = """\
# Configuration reference

Generated from [crds/](../crds) by `python -m scripts.reference`. `kubectl explain
nat64gateway.spec` shows the same. Every field is optional unless it says *required*. What the API
server refuses, it refuses with the field, the value and the rule; the rules are listed below each
table.
"""


def render(crds: list[Schema]) -> str:
    """The whole document."""
    return "\n".join([_HEAD, *(line for crd in crds for line in _kind(crd))]).rstrip() + "\n"


def load() -> list[Schema]:
    """The CRDs of this repository."""
    return [yaml.safe_load((REPO / "crds" / name).read_text()) for name in SOURCES]


def _kind(crd: Schema) -> Iterator[str]:
    names = crd["spec"]["names"]
    [version] = [v for v in crd["spec"]["versions"] if v["storage"]]
    schema = version["schema"]["openAPIV3Schema"]
    yield f"## {names['kind']}\n"
    api = f"`{crd['spec']['group']}/{version['name']}`"
    short = ", ".join(f"`{name}`" for name in names.get("shortNames", []))
    yield f"{api}, {crd['spec']['scope'].lower()}-scoped, short name {short}.\n"
    yield f"{schema['description']}\n"
    for part in ("spec", "status"):
        fields = list(_fields(schema["properties"][part], part))
        yield f"### {names['kind']} {part}\n"
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        for path, field, required in fields:
            yield _row(path, field, required)
        yield ""
        rules = [(path, text) for path, field, _ in fields for text in _rules(field)]
        if part == "spec":
            rules += [("metadata.name", text) for text in _rules(schema)]
        if rules:
            yield "Refused otherwise:\n"
            yield from (f"- `{path}`: {text}" for path, text in rules)
            yield ""


def _fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Every field below, in the order of the CRD."""
    inner = schema.get("items", schema)
    for name, field in inner.get("properties", {}).items():
        where = f"{path}.{name}"
        yield where, field, name in inner.get("required", [])
        yield from _fields(field, where + ("[]" if field.get("type") == "array" else ""))


def _row(path: str, field: Schema, required: bool) -> str:
    text = field.get("description", field.get("items", {}).get("description", ""))
    limits = _limits(field)
    meaning = " ".join(filter(None, [text, f"({limits})" if limits else ""]))
    default = "*required*" if required else _default(field)
    return f"| `{path}` | {_type(field)} | {default} | {_cell(meaning)} |"


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in field:
        return _cell(" or ".join(f"`{value}`" for value in field["enum"]))
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if field.get("type") == "object" and "additionalProperties" in field:
        return "map of strings"
    return str(field.get("type", "any"))


def _default(field: Schema) -> str:
    if "default" not in field or field["default"] == {}:
        return ""
    value = field["default"]
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _limits(field: Schema) -> str:
    return f"at most {field['maxItems']} items" if "maxItems" in field else ""


def _rules(field: Schema) -> Iterator[str]:
    for where in (field, field.get("items", {})):
        for rule in where.get("x-kubernetes-validations", []):
            yield " ".join(rule["message"].split())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write the document; the exit code is 0."""
    TARGET.write_text(render(load()))
    print(f"wrote {TARGET.relative_to(REPO)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
