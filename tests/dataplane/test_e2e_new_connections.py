"""Ports are no reason for a refusal: far more connections than ports, to one destination."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.lab import flows
from tests.lab.topology import SERVER, Line
from tests.lab.translator import Translator

pytestmark = pytest.mark.root

PORT, RATE, SECONDS, PODS = 4243, 500, 15, 20


def test_no_connection_is_refused_and_nobody_else_disturbed(lab: Line, nat64: Translator) -> None:
    """The default configuration. The pool's ports would be used up after nine seconds."""
    assert nat64.metric("nat64_pool_ports", protocol="tcp") < RATE * SECONDS * 0.7
    program = (sys.executable, "-m", "tests.lab.connections")
    server = lab.internet.start(*program, "serve", str(PORT), stdout=subprocess.PIPE)
    assert server.stdout
    assert server.stdout.readline() == "ready\n"
    pods = [f"fd64:1::{number:x}" for number in range(0x100, 0x100 + PODS)]
    lab.pod.ip(*(f"addr add {pod}/64 dev eth0 nodad" for pod in pods))
    others = flows.start_all(lab.pod)
    counted = json.loads(
        lab.pod.run(*program, "open", str(SERVER), str(PORT), str(RATE), str(SECONDS), *pods)
    )
    assert counted["refused"] == counted["lost"] == 0, counted
    assert counted["made"] > RATE * SECONDS * 0.9, counted
    assert nat64.metric("nat64_ports_given_back_total") > 0
    flows.end_all(others)
