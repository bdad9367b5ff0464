"""The images: small, without a shell, with a bill of materials, the same when built anew."""

from __future__ import annotations

import json
import re
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import archive, images
from tests.cluster.paths import REPO

pytestmark = pytest.mark.root

# What each has grown to, and a little; docs/install.md says what it consists of.
MOST_MIB = {"operator": 125, "dataplane": 72}
OURS = {image.target: image for image in images.PRODUCT}
# e_machine of the ELF header (elf.h), and where Debian has the loader of its programs.
MACHINES = {"amd64": 62, "arm64": 183}
LOADERS = {"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}
_BPF = 247


@pytest.fixture(scope="module")
def archives() -> dict[str, Path]:
    return {image.target: path for image, path in images.ensure(images.PRODUCT).items()}


@pytest.mark.parametrize("target", OURS)
def test_it_is_small(archives: dict[str, Path], target: str) -> None:
    assert archives[target].stat().st_size / 2**20 < MOST_MIB[target]


@pytest.mark.parametrize("target", OURS)
def test_it_is_not_root_and_has_neither_a_shell_nor_a_package_manager(
    archives: dict[str, Path], target: str
) -> None:
    assert archive.config(archives[target])["User"] == "65532:65532"
    programs = {
        Path(name).name for name in archive.names(archives[target]) if re.match("usr/s?bin/.", name)
    }
    assert "python3" in programs
    assert not programs & {"sh", "bash", "dash", "perl", "apt-get", "dpkg", "pip", "pip3", "su"}


def bill(archives: dict[str, Path], target: str) -> Any:
    return json.loads(archive.read(archives[target], f"usr/share/sbom/{target}.cdx.json"))


@pytest.mark.parametrize("target", OURS)
def test_its_bill_of_materials_lists_every_package(archives: dict[str, Path], target: str) -> None:
    found = bill(archives, target)
    assert found["bomFormat"] == "CycloneDX"
    versions = {c["purl"].partition("?")[0] for c in found["components"]}
    lock = (REPO / "requirements" / f"{target}.lock").read_text()
    pinned = re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)
    assert len(pinned) > 3
    assert {f"pkg:pypi/{name}@{version}" for name, version in pinned} == {
        v for v in versions if v.startswith("pkg:pypi/")
    }
    status = "var/lib/dpkg/status.d/"
    unpacked = {
        name.removeprefix(status)
        for name in archive.names(archives[target])
        if name.startswith(status) and name != status
    }
    listed = {v.partition("@")[0].removeprefix("pkg:deb/debian/") for v in versions if "deb" in v}
    assert listed == unpacked > {"libc6", "libssl3", "python3"}
    assert ("libbpf1" in unpacked) == (target == "dataplane")


@pytest.mark.parametrize("target", OURS)
def test_its_bill_of_materials_is_beside_the_build(archives: dict[str, Path], target: str) -> None:
    beside = json.loads((images.BILLS / f"{target}.cdx.json").read_text())
    assert beside == bill(archives, target)


def test_the_sidecar_knows_whom_to_trust_when_it_asks_over_tls(archives: dict[str, Path]) -> None:
    found = archives["dataplane"]
    environment = dict(entry.split("=", 1) for entry in archive.config(found)["Env"])
    bundle = archive.read(found, environment["SSL_CERT_FILE"].removeprefix("/")).decode()
    assert len(ssl.create_default_context(cadata=bundle).get_ca_certs()) > 100


@pytest.mark.parametrize("architecture", MACHINES)
@pytest.mark.parametrize("target", OURS)
def test_all_its_binaries_are_of_its_architecture(
    archives: dict[str, Path], target: str, architecture: str
) -> None:
    found = archives[target]
    if architecture != images.own_architecture():
        foreign = replace(OURS[target], architecture=architecture)
        found = images.ensure([foreign])[foreign]
    assert archive.architecture(found) == architecture
    heads = dict(archive.heads(found, 20))
    machines = {
        name: int.from_bytes(head[18:20], "little")
        for name, head in heads.items()
        if head.startswith(b"\x7fELF")
    }
    programs = {name for name, machine in machines.items() if machine == _BPF}
    assert {Path(name).name for name in programs} == {"clat.bpf.o", "nat64.bpf.o"}
    others = {name: machine for name, machine in machines.items() if name not in programs}
    assert set(others.values()) == {MACHINES[architecture]}, others
    names = {Path(name).name for name in others}
    # The interpreter, the C library's loader, and a wheel's extension module.
    assert LOADERS[architecture] in names
    for kind in ("python3.", "_core.cpython-"):
        assert any(name.startswith(kind) for name in names), kind


def test_two_builds_are_one_image(archives: dict[str, Path], tmp_path: Path) -> None:
    """With nothing but the base image in common: every package is fetched again."""
    storage = tmp_path / "storage"
    images.lend_base(storage)
    for target, image in OURS.items():
        again = tmp_path / f"{target}.tar"
        images.build_into(storage, image, again)
        assert archive.identity(again) == archive.identity(archives[target])
