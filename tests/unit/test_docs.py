"""Docs say what the code does: the reference, metrics, reasons and links are compared with it."""

from __future__ import annotations

import ast
import asyncio
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from nat64_dataplane.clat.metrics import Collector as ClatCollector
from nat64_dataplane.clat.state import State
from nat64_dataplane.config import Config, Role, Topology
from nat64_dataplane.dns64 import settings
from nat64_dataplane.dns64.app import App
from nat64_dataplane.dns64.report.dns_metrics import DnsCollector
from nat64_dataplane.translator.datapath.counters import DIRECTIONS, DROP_REASONS, NAMES
from nat64_dataplane.translator.datapath.port_bitmap import PoolUsage
from nat64_dataplane.translator.node_warning import REASONS
from nat64_dataplane.translator.report import gateway_metrics
from nat64_dataplane.translator.report.agent_state import AgentState
from nat64_dataplane.translator.report.metrics import Collector
from nat64_dataplane.translator.run_directory import Status
from nat64_operator.edge import metrics as operator_metrics
from nat64_operator.edge.metrics import Objects
from nat64_operator.edge.store import Store
from scripts import reference
from tests.unit.operator_simulation import SETTINGS

REPO = Path(__file__).parents[2]
DOCS = sorted((REPO / "docs").glob("*.md"))
PAGES = [*sorted(REPO.glob("*.md")), REPO / "tests" / "cluster" / "README.md"]
ROOTS = [REPO / "dataplane" / "nat64_dataplane", REPO / "operator" / "nat64_operator"]
COREFILE = ".:6464 {\n dns64\n cache\n acl {\n allow\n }\n forward . 192.0.2.53\n}\n"
_KINDS = {"ConfigMap", "DaemonSet", "Service", "Node", "Pod", "World", "EndpointSlice"}
_CAMEL = re.compile(r"^[A-Z][a-z]+[A-Za-z0-9]*$")


class Kernel:
    """Counters without a kernel: every name that the programs count."""

    def counters(self) -> dict[str, int]:
        return {f"{n}_{d}": 0 for n in NAMES if n != "none" for d in DIRECTIONS}

    def resting_ports(self) -> dict[str, int]:
        return {"tcp": 0}

    def usage(self) -> list[PoolUsage]:
        return []

    def session_count(self) -> int:
        return 0

    def session_limit(self) -> int:
        return 1


def test_the_configuration_reference_is_that_of_the_crds() -> None:
    written = reference.TARGET.read_text()
    assert written == reference.render(reference.load()), "run `python -m scripts.reference`"


def test_every_field_of_the_crds_has_a_description_in_the_reference() -> None:
    rows = re.findall(r"^\| `(.+?)` \| .* \| (.*) \|$", reference.TARGET.read_text(), re.MULTILINE)
    assert len(rows) > 80
    assert [path for path, meaning in rows if not meaning] == []


def names(metrics: Iterable[Metric]) -> set[str]:
    return {m.name + ("_total" if m.type == "counter" else "") for m in metrics}


async def exported() -> set[str]:
    status = Status(prefix="64:ff9b::/96", programmed=True, reason="", config_hash="", since=0)
    app = App(Path("Corefile"), settings.from_text(COREFILE))
    translator = Collector(AgentState(Config(name="default"), status), Kernel())
    router = Config(name="default", topology=Topology(role=Role.ROUTER))
    operator = [*operator_metrics.REGISTRY.collect(), *Objects(Store(SETTINGS)).collect()]
    ours = {name for name in names(operator) if name.startswith("nat64_")}
    clat = ClatCollector("default", State(), lambda: {"received_4to6": 0})
    return (
        names(translator.collect())
        | names(gateway_metrics.families(AgentState(router, status)))
        | names(clat.collect())
        | names(DnsCollector(app).collect())
        | ours
    )


def test_every_metric_is_documented_and_every_documented_metric_is_exported() -> None:
    text = (REPO / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"`((?:nat64|coredns)_\w+)`", text))
    assert documented == asyncio.run(exported())


def test_every_reason_to_drop_is_documented_with_its_meaning() -> None:
    text = (REPO / "docs" / "metrics.md").read_text()
    for reason, meaning in DROP_REASONS.items():
        assert f"| `{reason}` | {meaning} |" in text


def words(paths: Iterable[Path]) -> Iterator[str]:
    """CamelCase words of a module, as reasons are."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = node.value.partition(":")[0]
                if _CAMEL.match(word) and word not in _KINDS:
                    yield word


def arguments(paths: Iterable[Path], function: str) -> Iterator[str]:
    """The first argument of every call of a function."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value


def test_every_reason_of_a_condition_has_a_row_in_troubleshooting() -> None:
    text = (REPO / "docs" / "troubleshooting.md").read_text()
    operator = REPO / "operator" / "nat64_operator"
    modules = [
        operator / "coredns" / "wiring.py",
        operator / "coredns" / "wiring_record.py",
        *(
            operator / "reconcile" / f"{name}.py"
            for name in ("ownership", "gateways", "membership", "policies", "removal")
        ),
    ]
    found = {word for word in words(modules) if len(re.findall("[A-Z]", word)) > 1}
    assert "CorefileUnsupported" in found
    agents = (REPO / "dataplane" / "nat64_dataplane" / "translator").rglob("*.py")
    found |= set(arguments(agents, "HostError"))
    assert "NoUplink" in found
    assert sorted(word for word in found if f"`{word}`" not in text) == []


def test_every_warning_has_a_symptom_and_a_remedy_in_troubleshooting() -> None:
    text = (REPO / "docs" / "troubleshooting.md").read_text().partition("### Warnings")[2]
    rows = re.findall(r"^\| (.+) \| `(\w+)`: (.+) \| (.+) \|$", text, re.MULTILINE)
    assert [reason for _, reason, _, _ in rows] == list(REASONS)
    assert all(symptom and meaning and remedy for symptom, _, meaning, remedy in rows)


@pytest.mark.parametrize("path", [*DOCS, *PAGES], ids=lambda path: str(path.relative_to(REPO)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in set(anchors(file)), f"{path.name}: {target}"


def anchors(path: Path) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_index_lists_every_page() -> None:
    index = (REPO / "docs" / "README.md").read_text()
    listed = set(re.findall(r"^\| \[(\w[\w-]*\.md)\]", index, re.MULTILINE))
    assert listed == {path.name for path in DOCS} - {"README.md"}


def test_the_changelog_has_the_released_version_and_room_for_the_next() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (REPO / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
    assert headings[0] == "Unreleased"
    assert version in headings


@pytest.mark.parametrize("path", [*DOCS, *PAGES], ids=lambda path: str(path.relative_to(REPO)))
def test_paths_of_the_repository_that_pages_name_are_there(path: Path) -> None:
    """In backticks, from the root, or from the package that the page is about."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|h|c|yaml|json|txt|md|zone|sh))`", text)
    roots = [REPO, *ROOTS, ROOTS[0] / "dns64", ROOTS[0] / "translator", path.parent]
    assert [n for n in named if not any((root / n).exists() for root in roots)] == []


def test_every_make_target_that_pages_name_is_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    targets |= {"bpf"}  # in dataplane/bpf/bpf.mk
    for path in (*DOCS, *PAGES):
        found = re.findall(r"`make ([a-z0-9-]+)|^make ([a-z0-9-]+)", path.read_text(), re.MULTILINE)
        assert {a or b for a, b in found} <= targets, path.name
