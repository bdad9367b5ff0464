"""docs/standalone.md: the documented commands, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lab.node import ROOT, wait_for
from tests.lab.topology import NODE_V4, POD, PREFIX, ROUTER_V4, Line
from tests.lab.translator import PROGRAM

pytestmark = pytest.mark.root

DOCUMENT = (ROOT / "docs" / "standalone.md").read_text()
INSIDE = "nsenter --net=/run/netns/lab"


def documented(start: str) -> str:
    """The one command of the document that starts so, on one line."""
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    (found,) = [line.partition("  #")[0] for line in lines if line.startswith(start)]
    return found


def namespace(lab: Line) -> None:
    """Move the node's links into a named namespace on it."""
    node = lab.node
    node.run("ip", "netns", "add", "lab")
    for link in ("eth0", "pod0"):
        node.run("ip", "link", "set", link, "netns", "lab")
    for line in (
        "link set lo up",
        "link set eth0 up",
        "link set pod0 up",
        "addr add fd64:1::1/64 dev pod0 nodad",
        f"addr add {NODE_V4}/24 dev eth0",
        f"route add default via {ROUTER_V4} dev eth0",
    ):
        node.run(*INSIDE.split(), "ip", *line.split())


def test_one_command_translates_in_any_namespace_and_another_one_ends_it(
    lab: Line, tmp_path: Path
) -> None:
    namespace(lab)
    (tmp_path / "lab.yaml").write_text(f"{{name: default, prefix: '{PREFIX}'}}")
    run = documented(INSIDE).replace("nat64-translator", PROGRAM)
    run = run.replace("lab.yaml", str(tmp_path / "lab.yaml"))
    agent = lab.node.start(*run.split(), stderr=(tmp_path / "log").open("w"))
    wait_for("translation", lambda: lab.curl("ok", "--max-time", "2") == "ok")
    agent.kill()
    agent.wait()
    assert lab.curl("peer").split()[0] == str(NODE_V4), "goes on without its agent"
    where = "--run-dir /run/nat64-lab --pins /sys/fs/bpf/nat64-lab"
    shown = lab.node.run(*f"{INSIDE} {PROGRAM} bib {where}".split())
    assert str(POD) in shown
    remove = documented("nat64-translator remove").replace("nat64-translator", PROGRAM)
    out = lab.node.run(*f"{INSIDE} {remove} {where}".split())
    assert "removed link nat64-default" in out
    assert lab.curl("ok", "--max-time", "1", check=False) == ""


def test_the_documented_config_is_good(lab: Line, tmp_path: Path) -> None:
    example, topology = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    file = tmp_path / "edge.yaml"
    for text in (example, example + topology):
        file.write_text(text)
        assert lab.node.run(PROGRAM, "check", "--config", file).startswith("ok: edge translates")
