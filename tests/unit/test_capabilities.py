"""A node that can't give the translator its capabilities is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from nat64_dataplane.errors import HostError
from nat64_dataplane.translator.node import capabilities


def test_docker_20_privileged_lacks_bpf_and_perfmon(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapBnd:\t0000003fffffffff\nNoNewPrivs:\t0\n")
    with pytest.raises(HostError, match=r"CAP_PERFMON and CAP_BPF.*Docker 23"):
        capabilities.check(status)


def test_all_or_no_word_of_them_is_no_reason(tmp_path: Path) -> None:
    assert capabilities.lacking("CapBnd:\t000001ffffffffff\n") == []
    assert capabilities.lacking("Name:\tx\n") == []


@pytest.mark.root
def test_a_node_that_runs_the_translator_passes() -> None:
    capabilities.check()
