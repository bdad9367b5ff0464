"""The container that gives pods their CLAT, as the operator writes it."""

from __future__ import annotations

from nat64_operator.render import containers
from tests.unit.operator_simulation import SETTINGS


def test_mounts_below_its_host_paths_come_and_go_with_the_hosts() -> None:
    """Else it would keep network namespaces and containers' file systems that are gone."""
    made = containers.clat(SETTINGS, 9466)
    private = {
        mount["name"]
        for mount in made["volumeMounts"]
        if mount.get("mountPropagation") != "HostToContainer"
    }
    assert private == {"config", "clat-run"}, "which have no mounts below"
