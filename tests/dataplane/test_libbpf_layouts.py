"""The kernel programs and Python mean the same by the same names."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from nat64_dataplane.bpf import CLAT_OBJECT, OBJECT, Object
from nat64_dataplane.clat import programs as clat_programs
from nat64_dataplane.translator import sweep_loop
from nat64_dataplane.translator.datapath import abi, abi_topology, counters
from nat64_dataplane.translator.fragmentation import fragmentation_address

SOURCE = Path(__file__).parents[2] / "dataplane/bpf"

needs_object = pytest.mark.skipif(not OBJECT.exists(), reason="`make bpf` compiles the object")


def header(name: str) -> str:
    return (SOURCE / name).read_text()


def abi_headers() -> str:
    return "".join(path.read_text() for path in sorted(SOURCE.glob("abi*.h")))


def enum_of(text: str, name: str) -> dict[str, int]:
    """Names and values of a C enum whose values are plain or 1 << n."""
    found = re.search(rf"enum {name} \{{(.*?)\}};", text, re.DOTALL)
    assert found, name
    body = re.sub(r"/\*.*?\*/", "", found[1], flags=re.DOTALL)
    values: dict[str, int] = {}
    following = 0
    for item in filter(None, (part.strip() for part in body.split(","))):
        key, _, given = (part.strip() for part in item.partition("="))
        if given:
            first, _, shift = given.partition("<<")
            following = int(first) << int(shift or 0)
        values[key] = following
        following += 1
    return values


def test_counters_have_the_same_names_in_the_same_order() -> None:
    names = re.findall(r"\sX\((\w+)\)", header("counters.h"))
    assert tuple(names) == counters.NAMES


def test_every_drop_reason_is_explained_and_used() -> None:
    sources = "".join(path.read_text() for path in SOURCE.glob("*.h") if path.name != "counters.h")
    for reason, text in counters.DROP_REASONS.items():
        assert text
        used = re.search(rf"\b(STOP|COUNT)_dropped_{reason}\b", sources)
        assert used, f"{reason} is never counted"


@pytest.mark.parametrize(
    ("kind", "prefix", "python"),
    [
        ("config_flag", "CONFIG_", abi.ConfigFlag),
        ("destination_verdict", "DESTINATION_", abi.Verdict),
        ("sweep_how", "SWEEP_", abi.SweepHow),
        ("role", "ROLE_", abi_topology.NodeRole),
        ("gateway_state", "GATEWAY_", abi_topology.GatewayState),
        ("probe_state", "PROBE_", abi_topology.ProbeState),
    ],
)
def test_enums_agree(kind: str, prefix: str, python: type) -> None:
    members = {f"{prefix}{member.name}": member.value for member in python}  # type: ignore[attr-defined]
    assert enum_of(abi_headers(), kind) == members


def test_tcp_states_agree() -> None:
    states = enum_of(header("tcp_state.h"), "tcp_state")
    del states["TCP_STATES"]
    assert states == {f"TCP_{state.name}": state.value for state in abi.TcpState}


def test_flags_agree() -> None:
    text = abi_headers()
    for prefix, kind in (("SESSION_", abi.SessionFlag), ("UPLINK_", abi.UplinkFlag)):
        found = dict(re.findall(rf"#define {prefix}(\w+)\s+\(1 << (\d+)\)", text))
        assert {name: 1 << int(shift) for name, shift in found.items()} == {
            str(member.name): member.value for member in kind
        }


def test_constants_agree() -> None:
    text = abi_headers()
    defined = {
        name: int(value) for name, value in re.findall(r"#define (\w+)\s+(\d+)$", text, re.M)
    }
    assert defined["NAT64_ABI"] == abi.ABI
    assert defined["CONFIG_SLOTS"] == abi.CONFIG_SLOTS
    assert defined["MAX_POOL_RANGES"] == abi.MAX_POOL_RANGES
    assert defined["PORTS_PER_BLOCK"] == abi.PORTS_PER_BLOCK
    assert defined["MAX_PORT_BLOCKS"] == abi.MAX_PORT_BLOCKS
    assert "#define MAX_ZONES\t16 " in text
    assert abi.MAX_ZONES == 16
    assert defined["HELD_BYTES"] == abi.HELD_BYTES
    assert defined["SWEEP_KEY_BYTES"] == abi.SWEEP_KEY_BYTES
    assert defined["SWEEP_CHUNK"] == abi.SWEEP_CHUNK
    assert defined["SWEEP_MOST"] == abi.SWEEP_MOST
    for name in ("MAX_GATEWAYS", "STEERING_PLACES"):
        assert re.search(rf"#define {name}\s+{getattr(abi_topology, name)} ", text), name
    assert defined["STEERING_SLOTS"] == abi_topology.STEERING_SLOTS
    assert re.search(rf"#define SERVING_SECONDS {abi_topology.SERVING_SECONDS} ", text)
    assert re.search(rf"#define NO_GATEWAY\s+{abi_topology.NO_GATEWAY:#x}", text)
    tables = re.findall(r"\tSWEEP_(\w+)", text.partition("enum sweep_table")[2].partition("}")[0])
    assert tables == [table.name for table in abi.SweepTable]
    assert "FRAGMENTER_BASE 0xf0400000U" in header("refragment.h")
    assert int(fragmentation_address(0)) == 0xF0400000


def test_bindings_linger_longer_than_any_pause_between_sweeps() -> None:
    found = re.search(r"#define LINGER (\d+)", header("sweep_entries.h"))
    assert found
    for took in (0.001, 1, 3, 10):
        assert took + sweep_loop.pause_after(took) < int(found[1])
    assert sweep_loop.pause_after(0.001) < sweep_loop.pause_after(1) < sweep_loop.LONGEST_PAUSE


LAYOUTS: dict[str, tuple[struct.Struct, struct.Struct | None]] = {
    "control": (abi.U32, abi.CONTROL),
    "config": (abi.U32, abi.CONFIG),
    "pool": (abi.U32, abi.POOL_RANGE),
    "zones": (abi.U32, abi.U32),
    "uplinks": (abi.U32, abi.UPLINK),
    "arp_answers": (abi.ARP_KEY, abi.ARP_ANSWER),
    "sources": (abi.SOURCE_KEY, abi.U32),
    "destinations": (abi.DESTINATION_KEY, abi.DESTINATION),
    "ports": (abi.PORT_BLOCK_KEY, None),
    "bib6": (abi.BIB6_KEY, abi.BIB6),
    "bib4": (abi.BIB4_KEY, abi.BIB4),
    "sessions": (abi.SESSION_KEY, abi.SESSION),
    "overloads": (abi.OVERLOAD_KEY, abi.OVERLOAD),
    "clients": (abi.IPV6, abi.CLIENT),
    "fragments": (abi.FRAGMENT_KEY, abi.FRAGMENT),
    "held": (abi.HELD_KEY, abi.HELD),
    "sweep": (abi.U32, abi.SWEEP),
    "shared": (abi.U32, abi.SHARED),
    "topology": (abi.U32, abi_topology.TOPOLOGY),
    "peers": (abi_topology.PEER_KEY, abi_topology.PEER),
    "steering": (abi.U32, abi_topology.STEERING),
    "affinities": (abi.IPV6, abi_topology.AFFINITY),
    "serving": (abi.U32, abi_topology.SERVING),
}


@needs_object
def test_keys_and_values_have_the_same_sizes() -> None:
    with Object(OBJECT) as opened:
        layouts = opened.layouts
    for name, (key, value) in LAYOUTS.items():
        assert layouts[name].key_size == key.size, name
        if value is not None:
            assert layouts[name].value_size == value.size, name
    assert layouts["ports"].value_size == abi.PORT_BLOCK_SIZE
    assert layouts["counters"].value_size == counters.VALUE_SIZE


@needs_object
def test_config_fields_are_where_python_writes_them() -> None:
    text = subprocess.run(
        ["bpftool", "btf", "dump", "file", OBJECT], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"STRUCT 'config' .*?\n((?:\t.*\n)+)", text)
    assert found
    offsets = {
        name: int(bits) // 8
        for name, bits in re.findall(r"'(\w+)' type_id=\d+ bits_offset=(\d+)", found[1])
    }
    values = list(range(1, 28))
    packed = abi.CONFIG.pack(*values, b"\xaa" * 6, 1, 2, 3, 4, 77, 78, b"zones", b"marks", b"hash")
    assert packed[offsets["zones"] : offsets["zones"] + 5] == b"zones"
    assert packed[offsets["zone"]] == 9
    assert packed[offsets["closed_places"]] == 77
    assert packed[offsets["route_mtu"]] == 78
    assert packed[offsets["marks"] : offsets["marks"] + 5] == b"marks"
    assert packed[offsets["marks_used"]] == 24
    assert packed[offsets["epoch"]] == values[abi.CONFIG_EPOCH]
    assert packed[offsets["mac"] : offsets["mac"] + 6] == b"\xaa" * 6
    assert packed[offsets["hash"] : offsets["hash"] + 4] == b"hash"
    assert packed[offsets["clat_high"]] == 5
    assert packed[offsets["flags"]] == values[abi.CONFIG_FLAGS]
    assert packed[offsets["prefix_shift"]] == 7
    assert packed[offsets["timeout"]] == 12
    assert packed[offsets["lowest_ipv6_mtu"]] == 20


@needs_object
def test_object_says_which_licence_the_kernel_may_go_by() -> None:
    for path in SOURCE.glob("*.[ch]"):
        assert "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause" in path.read_text(), path
    assert b"Dual BSD/GPL\0" in OBJECT.read_bytes()


@needs_object
def test_the_clat_has_no_state() -> None:
    """Only its pods, its counters and work areas: neither bindings nor sessions."""
    with Object(CLAT_OBJECT) as clat:
        layouts = clat.layouts
    assert set(layouts) == {"clat_pods", "counters", "identifications", "scratch", "error_work"}
    assert layouts["clat_pods"].max_entries == clat_programs.SLOTS
    assert layouts["clat_pods"].value_size == clat_programs._SLOT.size
    assert layouts["counters"].value_size == counters.VALUE_SIZE
