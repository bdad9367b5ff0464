"""What the programs need of a kernel, and the Linux release that brought each."""

from __future__ import annotations

from typing import NamedTuple

from nat64_dataplane.bpf import libbpf

_SCHED_CLS = 3  # BPF_PROG_TYPE_SCHED_CLS


class Feature(NamedTuple):
    """A helper function or a map type; `number` is the kernel's own."""

    name: str
    number: int
    since: str


HELPERS = (
    Feature("bpf_skb_change_proto", 31, "4.8"),
    Feature("bpf_csum_update", 40, "4.9"),
    Feature("bpf_skb_adjust_room", 50, "4.13"),
    Feature("bpf_fib_lookup", 69, "4.18"),
    Feature("bpf_redirect_neigh", 152, "5.10"),
    Feature("bpf_ktime_get_coarse_ns", 160, "5.11"),
    Feature("bpf_for_each_map_elem", 164, "5.13"),
)
MAPS = (
    Feature("per-CPU array maps", 6, "4.6"),
    Feature("LRU hash maps", 9, "4.10"),
    Feature("longest-prefix-match tries", 11, "4.11"),
)


def missing() -> list[Feature]:
    """Which of them this kernel lacks; none where it can't be asked, as without privileges."""
    library = libbpf.load()
    lacking = [
        helper
        for helper in HELPERS
        if library.libbpf_probe_bpf_helper(_SCHED_CLS, helper.number, None) == 0
    ]
    lacking += [kind for kind in MAPS if library.libbpf_probe_bpf_map_type(kind.number, None) == 0]
    return lacking


def explain(lacking: list[Feature]) -> str:
    """One line for a person."""
    names = ", ".join(f"{feature.name} (Linux {feature.since})" for feature in lacking)
    return f"this kernel lacks {names}"
