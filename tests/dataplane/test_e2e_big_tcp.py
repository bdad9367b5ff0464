"""Pods whose links take trains of more than 64 KiB (BIG TCP, as some CNIs set up)."""

from __future__ import annotations

import pytest

from tests.lab.topology import Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

BIG = "gso_max_size 180000 gro_max_size 180000"


def test_trains_longer_than_a_length_field_can_say_get_through(
    lab: Line, nat64: Translator
) -> None:
    lab.pod.ip(f"link set eth0 {BIG}")
    lab.node.ip(f"link set pod0 {BIG}")
    assert lab.curl("sink", "--data-binary", "x" * 100_000).split()[0] == "100000"
    upload = "head -c 20000000 /dev/zero | curl -gsS --fail --max-time 60 --data-binary @- "
    got = lab.pod.run("sh", "-c", upload + f"'{lab.url('sink')}'")
    assert got.split()[0] == "20000000"
    assert nat64.metric("nat64_dropped_packets_total") == 0
