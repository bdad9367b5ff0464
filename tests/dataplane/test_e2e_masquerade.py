"""A CNI's masquerade must not merge clients before they are translated."""

from __future__ import annotations

import subprocess

import pytest

from tests.lab.node import wait_for
from tests.lab.topology import POD, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root


def masquerade(lab: Line, family: str) -> None:
    """As ip-masq-agent and many CNIs do, for all that leaves the pods' range."""
    lab.node.run(
        "nft",
        f"add table {family} cni; add chain {family} cni out "
        "{ type nat hook postrouting priority srcnat; }; "
        f"add rule {family} cni out ip6 saddr fd64:1::/64 masquerade",
    )


def is_untracked(lab: Line) -> bool:
    return "notrack" in lab.node.run("nft", "list", "table", "inet", "nat64_default")


@pytest.mark.parametrize("family", ["ip6", "inet"])
def test_masquerade_that_comes_to_an_idle_node_merges_nobody(
    lab: Line, nat64: Translator, family: str
) -> None:
    """Nothing has been tracked yet: that somebody could make the next packet so is reason enough.
    The agent hears of it, long before its next regular pass."""
    assert not is_untracked(lab)
    masquerade(lab, family)
    wait_for("notrack rules", lambda: is_untracked(lab), seconds=8)
    assert lab.curl("ok") == "ok"
    clients = {row["client"].rpartition(":")[0] for row in nat64.json("bib")}
    assert clients == {f"[{POD}]"}


def test_a_flow_from_before_the_agent_heard_of_it_is_not_merged_and_goes_on(
    lab: Line, nat64: Translator
) -> None:
    """A source of the node's own is refused on a pod's packet, so nothing is translated for the
    node in the pod's place. The connection's next try comes with the pod's own source."""
    nat64.stop()
    masquerade(lab, "ip6")
    early = lab.pod.start(
        *("curl", "-gsS", "--fail", "--max-time", "60", lab.url("ok")), stdout=subprocess.PIPE
    )

    def refused() -> bool:
        counters = {row["counter"]: row["6to4"] for row in nat64.json("drops")}
        return bool(counters["dropped_source_without_route"])

    wait_for("the refusal", refused)
    assert nat64.json("bib") == []
    nat64.start()
    wait_for("notrack rules", lambda: is_untracked(lab), seconds=8)
    assert early.communicate(timeout=60)[0] == "ok"
    clients = {row["client"].rpartition(":")[0] for row in nat64.json("bib")}
    assert clients == {f"[{POD}]"}
