"""`make cli`: the plugin as one file, run by a Python that has none of its packages."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from scripts import cli_zipapp

PYTHON = getattr(sys, "_base_executable", sys.executable)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    argv = [sys.executable, "-m", "scripts.cli_zipapp", str(made), "--url", "https://a.example"]
    subprocess.run(argv, check=True, cwd=cli_zipapp.REPO)
    return made


def run(folder: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [PYTHON, "-I", str(folder / cli_zipapp.NAME), *arguments]
    env = {"XDG_CACHE_HOME": str(cache), "PATH": "/usr/bin:/bin", "HOME": str(cache)}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_it_runs_without_an_environment_and_unpacks_once(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path, "__complete", "sta")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("status\t")
    [made] = (tmp_path / "kubectl-nat64").iterdir()
    before = made.stat().st_ctime_ns
    nowhere = run(folder, tmp_path, "status", "--kubeconfig", str(tmp_path / "none"))
    assert nowhere.returncode == 2
    assert nowhere.stderr.startswith("kubectl nat64: no cluster")
    assert made.stat().st_ctime_ns == before


def test_the_operators_packages_are_not_in_it() -> None:
    found = cli_zipapp.closure("nat64-operator", "cli")
    assert {"kubernetes", "msgspec", "pyyaml"} <= found
    assert not found & {"kopf", "dnspython", "aiohttp", "prometheus-client", "pyroute2", "pytest"}


def test_krews_manifest_has_the_archives_hash(folder: Path) -> None:
    manifest = yaml.safe_load((folder / "nat64.yaml").read_text())
    [platform] = manifest["spec"]["platforms"]
    archive = folder / platform["uri"].rpartition("/")[2]
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == platform["sha256"]
    with tarfile.open(archive) as tar:
        assert {member.name: member.mode for member in tar.getmembers()}[platform["bin"]] == 0o755


def test_krews_manifest_is_as_krew_wants_it(folder: Path) -> None:
    """By its validation (krew, pkg/index/validation) and its guide for plugin developers."""
    manifest = yaml.safe_load((folder / "nat64.yaml").read_text())
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert manifest["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
    assert manifest["kind"] == "Plugin"
    # `kubectl krew install --manifest` wants the file to be named as the plugin.
    assert manifest["metadata"] == {"name": "nat64"}
    spec = manifest["spec"]
    known = {"version", "homepage", "shortDescription", "description", "caveats", "platforms"}
    assert set(spec) == known
    assert re.fullmatch(r"v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", spec["version"])
    assert spec["version"] == f"v{cli_zipapp.own_version()}"
    assert len(spec["shortDescription"]) <= 50
    assert not spec["shortDescription"].endswith(".")
    [platform] = spec["platforms"]
    assert set(platform) == {"selector", "uri", "sha256", "bin"}
    labels = platform["selector"]["matchLabels"]
    assert labels["os"] in ("linux", "darwin", "windows")
    assert labels["arch"] in ("amd64", "arm64")
    assert platform["uri"].startswith("https://")
    assert platform["uri"].endswith((".tar.gz", ".zip"))
    assert re.fullmatch("[0-9a-f]{64}", platform["sha256"])
    assert not Path(platform["bin"]).is_absolute()


def test_another_python_is_told_so(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "other"
    script = cli_zipapp.MAIN.format(made_for=("cpython-399", "moon"), content="x")
    program.write_text(script)
    done = subprocess.run([PYTHON, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this file is for cpython-399 on moon, and this is" in done.stderr
