"""The recipe for BGP in docs/advertisement.md, as it stands there, on two BIRDs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.node import ROOT, Lab, Node, wait_for
from tests.lab.topology import PREFIX, ROUTER_V4, Line
from tests.lab.translator import translator

pytestmark = pytest.mark.root

DOCUMENT = (ROOT / "docs" / "advertisement.md").read_text()
OF_NODE, OF_ROUTER = re.findall(r"```bird\n(.*?)```", DOCUMENT, re.DOTALL)
(LOOP,) = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", DOCUMENT, re.DOTALL)
SOURCES = {"allowedSources": ["fd64:1::/64", "fd64:2::/64"]}


def bird(node: Node, config: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / f"{node.name}.conf"
    file.write_text(config)
    node.run("mkdir", "-p", "/run/bird")
    log = (folder / f"{node.name}.log").open("w")
    node.start("bird", "-f", "-c", str(file), stderr=log)
    wait_for("BIRD", lambda: "BIRD" in node.run("birdc", "show", "status"))


@pytest.fixture
def outside(lab: Line, tmp_path: Path) -> Iterator[Node]:
    """A router outside of the cluster, on the node's link lan0. Both run BIRD, and the node the
    loop.
    """
    with Lab() as more:
        router = more.node("outside")
        router.join(lab.node, "eth0", "lan0")
        router.ip("addr add fd64:2::10/64 dev eth0 nodad")
        lab.node.ip("addr add fd64:2::1/64 dev lan0 nodad")
        bird(lab.node, OF_NODE, tmp_path)
        bird(router, OF_ROUTER, tmp_path)
        loop = tmp_path / "nat64-bird"
        loop.write_text(LOOP)
        loop.chmod(0o755)
        process = lab.node.start(str(loop), start_new_session=True)
        try:
            yield router
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            wait_for("the end of what the loop runs", lambda: ended(process.pid))


def ended(session: int) -> bool:
    states = subprocess.run(
        ["ps", "-s", str(session), "-o", "stat="], capture_output=True, text=True, check=False
    ).stdout.split()
    return all(state.startswith("Z") for state in states)


def route(router: Node) -> str:
    return router.run("ip", "-6", "route", "show", str(PREFIX)).strip()


def learns(router: Node) -> None:
    wait_for("an announcement", lambda: "via fd64:2::1 dev eth0 proto bird" in route(router))


def forgets(router: Node) -> None:
    wait_for("its withdrawal", lambda: not route(router))


def test_a_router_outside_learns_the_prefix_while_packets_are_translated(
    lab: Line, outside: Node
) -> None:
    with translator(lab.node, policy=SOURCES) as nat64:
        learns(outside)
        fetched = outside.run("curl", "-gsS", "--fail", "--max-time", "30", lab.url("ok"))
        assert fetched == "ok"
        nat64.kill()
        nat64.start()
        nat64.wait_ready()
        assert route(outside), "a restart changes nothing"
        lab.node.ip("route del default")
        forgets(outside)
        lab.node.ip(f"route add default via {ROUTER_V4} dev eth0")
        learns(outside)
        nat64.stop()
        nat64.remove()
        forgets(outside)
