"""The packages keep to their layout: what each is for is written in it, and imports go one way."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

REPO = Path(__file__).parents[2]
ROOTS = {
    "nat64_operator": REPO / "operator" / "nat64_operator",
    "nat64_dataplane": REPO / "dataplane" / "nat64_dataplane",
}
SMALL = 5
"""Files that a package may have before its own imports need layers."""
BUILT = {
    "dataplane/nat64_dataplane/bpf/clat.bpf.o",
    "dataplane/nat64_dataplane/bpf/nat64.bpf.o",
}
"""What `make` writes."""
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
    """The modules of the same package that a module imports, also inside its functions."""
    for node in ast.walk(parse(path)):
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


def test_every_package_of_some_size_has_layers() -> None:
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]
    layered = {
        container
        for contract in contracts["contracts"]
        if contract["type"] == "layers"
        for container in contract["containers"]
    }
    files = [(n, path) for package in ROOTS for n, path in modules(package).items()]
    packages = {
        n
        for n, path in files
        if path.name == "__init__.py" and len([*path.parent.glob("*.py")]) > SMALL
    }
    assert len(packages) > 10
    assert packages <= layered


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True
    )
    return set(listed.stdout.splitlines())


def texts_that_name_paths(files: set[str]) -> Iterator[tuple[str, str]]:
    """Docs, the Makefile and all that builds, checks and releases: name and text."""
    for name in sorted(files):
        path = PurePosixPath(name)
        of_builds = path.name in {"Makefile", "Dockerfile", "pyproject.toml", ".dockerignore"}
        if of_builds or path.suffix in {".md", ".mk"} or path.parts[0] in {".ci", "scripts"}:
            yield name, (REPO / name).read_text()


def test_docs_makefile_and_hooks_name_no_path_that_is_not_there() -> None:
    files = tracked()
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents}
    top = "|".join(re.escape(folder) for folder in sorted(folders) if "/" not in folder[1:])
    whole = re.compile(rf"(?<![\w/.~-])((?:{top})/[\w./*-]*\w)")
    code = re.compile(r"`([\w/*-]+(?:/[\w*.-]+)*\.(?:py|h|c|mk))`")
    tails = {"/".join(PurePosixPath(f).parts[-n:]) for f in files for n in range(1, 5)}
    lost = []
    for name, text in texts_that_name_paths(files):
        for found in whole.findall(text):
            known = found in files | folders | BUILT or ("*" in found and any(REPO.glob(found)))
            lost += [] if known else [f"{name}: {found}"]
        for found in code.findall(text):
            pattern = re.compile(re.escape(found).replace(r"\*", "[^/]*"))
            lost += [] if any(map(pattern.fullmatch, tails)) else [f"{name}: {found}"]
        for found in re.findall(r"python3? -m ((?:scripts|tests|nat64)[\w.]*)", text):
            path = found.replace(".", "/")
            known = bool({f"{path}.py", f"{path}/__main__.py"} & tails)
            lost += [] if known else [f"{name}: python -m {found}"]
    assert lost == []


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())
