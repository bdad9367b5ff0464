"""The chart and the CRDs it carries."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scripts import chart_reference

REPO = Path(__file__).parents[2]
CHART = REPO / "charts" / "nat64-operator"


def test_the_charts_crds_are_copies_of_the_one_source() -> None:
    source = {path.name: path.read_text() for path in (REPO / "crds").iterdir()}
    assert {p.name: p.read_text() for p in (CHART / "files" / "crds").iterdir()} == source


def leaves(field: dict[str, Any], path: str = "spec") -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every field that holds a value, with whether it is required."""
    inner = field.get("items", field)
    for name, child in inner.get("properties", {}).items():
        where = f"{path}.{name}"
        if not child.get("properties"):
            yield where, child, name in inner.get("required", ())
        yield from leaves(child, where)


def test_every_field_says_its_default_and_an_example() -> None:
    """What has a fixed set of values shows them by itself; what is required has no default."""
    crd = yaml.safe_load((REPO / "crds" / "nat64gateways.yaml").read_text())
    [version] = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found = list(leaves(spec))
    assert len(found) > 30
    for path, field, required in found:
        words = field["description"].lower()
        assert required or re.search(r"\b(default|by default)\b", words), path
        closed = "enum" in field or field.get("type") == "boolean"
        assert closed or " as in " in words, path


def test_a_crd_outlives_the_release() -> None:
    for path in (REPO / "crds").iterdir():
        metadata = yaml.safe_load(path.read_text())["metadata"]
        assert metadata["annotations"]["helm.sh/resource-policy"] == "keep"


def test_every_value_is_in_the_schema_which_allows_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def check(value: object, rule: dict[str, object], path: str) -> None:
        reference = rule.get("$ref")
        if isinstance(reference, str):
            rule = schema["definitions"][reference.rpartition("/")[2]]
        properties = rule.get("properties")
        if not isinstance(value, dict) or not isinstance(properties, dict):
            return
        assert rule.get("additionalProperties") is False, path
        assert set(value) <= set(properties), path
        for key, inner in value.items():
            check(inner, properties[key], f"{path}.{key}")

    check(values, schema, "values")


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in (REPO / "pyproject.toml").read_text()


def test_the_charts_readme_is_that_of_its_values() -> None:
    assert chart_reference.TARGET.read_text() == chart_reference.render(), (
        "run `python -m scripts.chart_reference`"
    )


def test_the_charts_readme_has_every_value() -> None:
    listed = {path for path, _, _ in chart_reference.rows((CHART / "values.yaml").read_text())}

    def leaves_of(value: object, path: str) -> Iterator[str]:
        if isinstance(value, dict) and value and path not in listed:
            for key, inner in value.items():
                yield from leaves_of(inner, f"{path}.{key}".lstrip("."))
        else:
            yield path

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(leaves_of(values, "")) == listed


def test_the_chart_says_what_artifact_hub_shows() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {"home", "icon", "sources", "maintainers", "keywords", "kubeVersion"} <= set(chart)
    annotations = chart["annotations"]
    kinds = {crd["kind"] for crd in yaml.safe_load(annotations["artifacthub.io/crds"])}
    examples = yaml.safe_load(annotations["artifacthub.io/crdsExamples"])
    assert kinds == {example["kind"] for example in examples} == {"NAT64Gateway", "DNS64Policy"}
