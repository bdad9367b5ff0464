"""The figures of topology Gateway: each subject is compared with its own peer, and no other."""

from __future__ import annotations

from nat64_dataplane.members import MAX_BYTES, parse_routers, render
from tests.bench.failover import figures, summary
from tests.bench.probes import ROUTERS, members
from tests.bench.topology import ratios


def test_a_ratio_is_of_runs_that_belong_together() -> None:
    runs = {
        "tcp_up_1_gbps": {
            "direct": [9.0, 8.0, 1.0],
            "plain_ipv6": [10.0, 10.0, 1.0],
            "tunnel": [4.0, 4.0, 4.0],
            "plain_vxlan": [5.0, 5.0, 5.0],
        }
    }
    assert ratios(runs) == {"tcp_up_1_gbps": {"direct/plain_ipv6": 0.9, "tunnel/plain_vxlan": 0.8}}


def test_failover_is_summed_up_with_its_worst() -> None:
    found = summary([0.5, 0.7, 2.0])
    assert (found["kills"], found["median"], found["worst"]) == (3, 0.7, 2.0)
    assert summary([1.0])["p90"] == 1.0


def test_failover_is_summed_up_for_each_transport_and_kind_of_kill() -> None:
    found = figures({"Tunnel": {"cut": [0.5, 0.7], "gone": [0.9]}, "Direct": {"cut": [1.1]}})
    assert (found["all"]["kills"], found["all"]["worst"]) == (4, 1.1)
    assert found["by_transport"]["Tunnel"]["all"]["median"] == 0.7
    assert found["by_transport"]["Tunnel"]["by_kind"]["cut"]["runs"] == [0.5, 0.7]
    assert found["by_transport"]["Direct"]["by_kind"]["cut"]["kills"] == 1


def test_the_routers_of_the_simulation_fit_into_a_config_map() -> None:
    file = render(members(ROUTERS))
    assert len(file) < MAX_BYTES
    assert len(parse_routers(file).routers) == ROUTERS
