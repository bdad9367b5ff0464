"""Writes the chart's README.md from Chart.yaml and values.yaml: every value with its comment.

python -m scripts.chart_reference
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "charts" / "nat64-operator"
TARGET = CHART / "README.md"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?P<value>.*)$")
_HEAD = """\
# {name}

<!-- Written by `python -m scripts.chart_reference` from Chart.yaml and values.yaml: edit those. -->

{description}.

Chart {version}, application {app}, Kubernetes `{kube}`.

```sh
helm install nat64-operator charts/nat64-operator --namespace nat64-system --create-namespace \\
  --set operator.image.repository=REGISTRY/operator \\
  --set dataplane.image.repository=REGISTRY/dataplane
```

Then apply a NAT64Gateway and a DNS64Policy; `helm` prints an example. There is one release in a
cluster, since both resources are the cluster's: a second one is refused. So the names of the
chart's objects are fixed, and there is no `nameOverride`.

`values.schema.json` refuses values that are not in this table.

## Values

| value | default | meaning |
|---|---|---|
"""


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Path, default and meaning of every value that has no values below it."""
    values = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    comments: list[str] = []
    headings: dict[tuple[str, ...], str] = {}
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comments.append(stripped.lstrip("# "))
            continue
        found = _KEY.match(line)
        if not found:
            comments = []
            continue
        indent = len(found["indent"])
        path = [entry for entry in path if entry[0] < indent] + [(indent, found["key"])]
        keys = tuple(key for _, key in path)
        meaning, comments = " ".join(comments), []
        value = lookup(values, keys)
        if value is MISSING:
            continue  # below a list
        headings[keys] = meaning
        if not found["value"].strip() and isinstance(value, dict):
            continue
        if not meaning and len(keys) > 1:
            meaning = headings.get(keys[:-1], "")
        yield ".".join(keys), shown(value), meaning


MISSING = object()


def lookup(values: Any, keys: tuple[str, ...]) -> Any:
    """A value by its keys; MISSING where there is none."""
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return MISSING
        values = values[key]
    return values


def shown(value: Any) -> str:
    """A default as JSON."""
    return f"`{json.dumps(value)}`"


def render() -> str:
    """The whole page."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    head = _HEAD.format(
        name=chart["name"],
        description=chart["description"],
        version=chart["version"],
        app=chart["appVersion"],
        kube=chart["kubeVersion"],
    )
    table = [
        f"| `{path}` | {default} | {meaning.replace('|', chr(92) + '|')} |"
        for path, default, meaning in rows((CHART / "values.yaml").read_text())
    ]
    return head + "\n".join(table) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
