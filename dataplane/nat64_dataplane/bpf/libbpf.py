"""libbpf 1.x and the bpf system call's structures, as ctypes sees them. No policy here.

Functions of libbpf return a negative errno, or NULL with errno set; `check` and `check_pointer`
turn both into BpfError. What libbpf prints goes to `messages`, which an error may quote.
"""

from __future__ import annotations

import ctypes
import functools
from collections import deque
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from nat64_dataplane.bpf.errors import BpfError
from nat64_dataplane.errors import DataplaneError

NAMES = ("libbpf.so.1",)
OBJECT_NAME_BYTES = 16

BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2


class OpenOptions(ctypes.Structure):
    """The head of struct bpf_object_open_opts; libbpf takes the rest as zero."""

    _fields_ = (("sz", c_size_t), ("object_name", c_char_p))


class TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts."""

    __test__ = False
    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class MapInfo(ctypes.Structure):
    """struct bpf_map_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", ctypes.c_char * OBJECT_NAME_BYTES),
        ("rest", ctypes.c_uint8 * 48),
    )


class ProgramInfo(ctypes.Structure):
    """The head of struct bpf_prog_info; the kernel takes any length."""

    _fields_ = (("type", c_uint32), ("id", c_uint32), ("tag", ctypes.c_uint8 * 8))


class SkbContext(ctypes.Structure):
    """struct __sk_buff up to hwtstamp: what BPF_PROG_TEST_RUN takes and gives back."""

    _fields_ = (
        ("len", c_uint32),
        ("pkt_type", c_uint32),
        ("mark", c_uint32),
        ("queue_mapping", c_uint32),
        ("protocol", c_uint32),
        ("vlan_present", c_uint32),
        ("vlan_tci", c_uint32),
        ("vlan_proto", c_uint32),
        ("priority", c_uint32),
        ("ingress_ifindex", c_uint32),
        ("ifindex", c_uint32),
        ("tc_index", c_uint32),
        ("cb", c_uint32 * 5),
        ("hash", c_uint32),
        ("tc_classid", c_uint32),
        ("data", c_uint32),
        ("data_end", c_uint32),
        ("napi_id", c_uint32),
        ("sockets", c_uint32 * 12),
        ("data_meta", c_uint32),
        ("flow_keys", c_uint64),
        ("tstamp", c_uint64),
        ("wire_len", c_uint32),
        ("gso_segs", c_uint32),
        ("sk", c_uint64),
        ("gso_size", c_uint32),
        ("tstamp_type", c_uint32),
        ("hwtstamp", c_uint64),
    )


_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "libbpf_set_print": (c_void_p, (c_void_p,)),
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__map_flags": (c_uint32, (c_void_p,)),
    "bpf_map__is_internal": (ctypes.c_bool, (c_void_p,)),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__set_log_buf": (c_int, (c_void_p, c_void_p, c_size_t)),
    "bpf_program__set_log_level": (c_int, (c_void_p, c_uint32)),
    "bpf_obj_get": (c_int, (c_char_p,)),
    "bpf_obj_pin": (c_int, (c_int, c_char_p)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_lookup_batch": (
        c_int,
        (c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    ),
    "bpf_map_update_batch": (c_int, (c_int, c_void_p, c_void_p, c_void_p, c_void_p)),
    "bpf_prog_test_run_opts": (c_int, (c_int, c_void_p)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "libbpf_probe_bpf_helper": (c_int, (c_int, c_int, c_void_p)),
    "libbpf_probe_bpf_map_type": (c_int, (c_int, c_void_p)),
}

messages: deque[str] = deque(maxlen=50)
"""The last things that libbpf had to say, oldest first."""

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)


@functools.cache
def load() -> ctypes.CDLL:
    """Open the library once. Raises DataplaneError where the machine has none."""
    for name in NAMES:
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        for function, (result, arguments) in _SIGNATURES.items():
            entry = getattr(library, function)
            entry.restype, entry.argtypes = result, arguments
        library.libbpf_set_print(ctypes.cast(_on_print, c_void_p))
        return library
    raise DataplaneError(f"{NAMES[0]} isn't installed: Debian's package is libbpf1")


def _collect(_level: int, form: bytes, arguments: int) -> int:
    """Keep what libbpf prints; the C library does the formatting of its va_list."""
    buffer = ctypes.create_string_buffer(8192)
    _libc().vsnprintf(buffer, c_size_t(len(buffer)), form, c_void_p(arguments))
    messages.append(buffer.value.decode(errors="replace").rstrip())
    return 0


_on_print = _PRINT(_collect)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def check(result: int, doing: str) -> int:
    """Return a non-negative result; raise BpfError for a negative one."""
    if result >= 0:
        return result
    raise BpfError(doing, -result)


def check_pointer(result: int | None, doing: str) -> int:
    """Return a pointer; raise BpfError for NULL."""
    if result:
        return result
    number = ctypes.get_errno()
    raise BpfError(doing, number, "\n".join(list(messages)[-3:]))
