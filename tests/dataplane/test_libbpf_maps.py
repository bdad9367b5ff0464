"""libbpf through ctypes: maps, pins, programs, and errors that a person can read."""

from __future__ import annotations

import ctypes
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nat64_dataplane.bpf import OBJECT, Map, Object, features, libbpf
from nat64_dataplane.bpf.errors import BpfError, PinMismatchError, VerifierError
from nat64_dataplane.bpf.maps import MapLayout, possible_cpus
from nat64_dataplane.errors import DataplaneError
from nat64_dataplane.translator.datapath import abi

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def loaded() -> Iterator[Object]:
    with Object(OBJECT) as opened:
        opened.load()
        yield opened


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of the test's own, gone afterwards with all that is pinned in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    where = str(tmp_path).encode()
    assert libc.mount(b"bpf", where, b"bpf", 0, None) == 0
    try:
        yield tmp_path
    finally:
        assert libc.umount2(where, 2) == 0


def compiled(source: str, directory: Path) -> Path:
    """Compile a few lines of BPF C."""
    path = directory / "test.bpf.c"
    path.write_text(source)
    include = (
        f"/usr/include/{subprocess.check_output(['uname', '-m'], text=True).strip()}-linux-gnu"
    )
    out = directory / "test.bpf.o"
    subprocess.run(
        ["clang", "-g", "-O2", "-target", "bpf", "-idirafter", include, "-c", path, "-o", out],
        check=True,
    )
    return out


def test_hash_map_set_get_delete(loaded: Object) -> None:
    with loaded.map("uplinks") as table:
        key = abi.U32.pack(7)
        assert table.get(key) is None
        assert not table.delete(key)
        table.set(key, abi.UPLINK.pack(1, 1500, 0))
        assert table.get(key) == abi.UPLINK.pack(1, 1500, 0)
        assert not table.add(key, abi.UPLINK.pack(2, 9000, 0))
        assert table.keys() == [key]
        assert table.delete(key)


def test_batches_cover_everything_once(loaded: Object) -> None:
    count = 20_000
    with loaded.map("bib4") as table:
        keys = [abi.BIB4_KEY.pack(index.to_bytes(4, "big"), b"\0\1", 6) for index in range(count)]
        value = abi.BIB4.pack(bytes(16), b"\0\1", 0, 0, 1, 2, 3, 4, 0)
        table.set_batch(b"".join(keys), value * count)
        assert sorted(key for key, _ in table.items()) == sorted(keys)
        for key in keys:
            table.delete(key)
        assert not list(table.items())


def test_per_cpu_values_come_together(loaded: Object) -> None:
    with loaded.map("counters") as table:
        value = table.get(abi.U32.pack(0))
        assert value is not None
        assert len(value) == possible_cpus() * table.layout.value_size


def test_full_map_says_so(loaded: Object) -> None:
    with loaded.map("uplinks") as table:
        for index in range(table.layout.max_entries):
            table.set(abi.U32.pack(index), abi.UPLINK.pack(0, 0, 0))
        with pytest.raises(BpfError, match=r"writing map uplinks.*E2BIG") as caught:
            table.set(abi.U32.pack(10_000), abi.UPLINK.pack(0, 0, 0))
        assert caught.value.errno == errno.E2BIG
        for key in list(table.keys()):
            table.delete(key)


def test_pinned_map_is_reused_with_its_content(bpffs: Path) -> None:
    with Object(OBJECT) as first:
        first.load()
        with first.map("uplinks") as table:
            table.set(abi.U32.pack(5), abi.UPLINK.pack(1, 1234, 0))
            table.pin(bpffs / "uplinks")
    with Object(OBJECT) as second:
        with Map.open_pinned(bpffs / "uplinks") as pinned:
            second.reuse("uplinks", pinned, bpffs / "uplinks")
        second.load()
        with second.map("uplinks") as table:
            assert table.get(abi.U32.pack(5)) == abi.UPLINK.pack(1, 1234, 0)


def test_pinned_map_that_does_not_fit_is_refused_with_every_difference(bpffs: Path) -> None:
    with Object(OBJECT) as first:
        first.resize("bib4", 2048)
        first.load()
        with first.map("bib4") as table:
            table.pin(bpffs / "bib4")
    with Object(OBJECT) as second, Map.open_pinned(bpffs / "bib4") as pinned:
        with pytest.raises(PinMismatchError) as caught:
            second.reuse("bib4", pinned, bpffs / "bib4")
        assert caught.value.differences == ["max_entries is 2048, needed is 65536"]
        with pytest.raises(PinMismatchError, match="type is hash, needed is percpu_array") as all_:
            second.reuse("counters", pinned, bpffs / "bib4")
        assert len(all_.value.differences) == 5


def test_layout_differences_are_named() -> None:
    a = MapLayout(1, 4, 8, 100, 0)
    assert a.differences(a) == []
    assert a.differences(a._replace(type=2, flags=1)) == [
        "type is array, needed is hash",
        "flags is 1, needed is 0",
    ]


def test_refused_program_shows_the_end_of_the_verifiers_log(tmp_path: Path) -> None:
    path = compiled(
        """
        #include <linux/bpf.h>
        #include <bpf/bpf_helpers.h>
        SEC("tc") int bad(struct __sk_buff *skb)
        {
            return *(char *)(long)skb->data;
        }
        char _license[] SEC("license") = "GPL";
        """,
        tmp_path,
    )
    with Object(path) as opened, pytest.raises(VerifierError) as caught:
        opened.load()
    assert caught.value.program == "bad"
    assert "invalid access to packet" in str(caught.value)
    assert len(str(caught.value)) < 5000


def test_kernel_has_what_the_programs_need_and_a_lack_would_be_named() -> None:
    assert features.missing() == []
    future = features.Feature("bpf_from_the_future", 9999, "99.1")
    assert libbpf.load().libbpf_probe_bpf_helper(3, future.number, None) == 0
    assert features.explain([future]) == "this kernel lacks bpf_from_the_future (Linux 99.1)"


def test_missing_object_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataplaneError, match="make bpf"):
        Object(tmp_path / "none.o")


def test_object_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "garbage.o"
    path.write_bytes(b"no ELF")
    with pytest.raises(BpfError, match="reading"):
        Object(path)


def test_missing_pin_names_its_path(bpffs: Path) -> None:
    with pytest.raises(BpfError, match=r"nowhere.*ENOENT"):
        Map.open_pinned(bpffs / "nowhere")


def test_programs_carry_btf_so_that_functions_are_verified_one_by_one(loaded: Object) -> None:
    for name in ("nat64_egress", "nat64_ingress", "nat64_sweep", "nat64_announce"):
        program = loaded.program(name)
        number, tag = program.identity
        text = subprocess.run(
            ["bpftool", "prog", "show", "id", str(number)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "btf_id" in text
        assert tag in text
        program.close()
