"""The packages keep to their layout: what each is for is written in it, and imports go one way."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
ROOTS = {
    "nat64_operator": REPO / "operator" / "nat64_operator",
    "nat64_dataplane": REPO / "dataplane" / "nat64_dataplane",
}
LINES = 2
"""The docstring of a package says its job, what it may import and what it must never know."""


def modules(package: str) -> dict[str, Path]:
    """All modules of a package by their dotted names."""
    root = ROOTS[package]
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the same package that a module imports when it is loaded."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known:
                    yield full
                elif node.module in known:
                    yield node.module


@pytest.mark.parametrize("package", ROOTS)
def test_every_module_says_what_it_is_for(package: str) -> None:
    silent = [n for n, path in modules(package).items() if not ast.get_docstring(parse(path))]
    assert silent == []


@pytest.mark.parametrize("package", ROOTS)
def test_every_sub_package_says_its_job_and_its_limits(package: str) -> None:
    found = {n: path for n, path in modules(package).items() if path.name == "__init__.py"}
    del found[package]
    assert len(found) > 3
    for name, path in found.items():
        text = ast.get_docstring(parse(path)) or ""
        assert len(text.splitlines()) > LINES, f"{name}: {text!r}"
        assert "mport" in text, f"{name} doesn't say what it may import"
        assert "never" in text, f"{name} doesn't say what it must never know"


@pytest.mark.parametrize("package", ROOTS)
def test_no_module_imports_itself_by_a_detour(package: str) -> None:
    known = modules(package)
    graph = {name: set(imports(path, known)) - {name} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"circle: {' -> '.join((*way[way.index(name) :], name))}"
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*way, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("package", ROOTS)
def test_no_module_outgrows_what_one_reads_at_once(package: str) -> None:
    long = {n for n, path in modules(package).items() if len(path.read_text().splitlines()) > 300}
    assert not long, "split it by topic"


def test_imports_keep_to_the_layers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())
