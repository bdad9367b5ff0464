"""Connections that are refused where there are far more of them than ports, on the default config.

20 pods of one node open 500 TCP connections a second to one address and port, for two minutes. Each
is closed, by the client or by the server in turn.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.lab import connections
from tests.lab.topology import SERVER, line
from tests.lab.translator import translator

PORT, RATE, SECONDS, PODS = 4243, 500, 120, 20


def measure() -> int:
    """How many were refused, or had no answer. AssertionError where the load was too low."""
    program = (sys.executable, "-m", connections.__name__)
    pods = [f"fd64:1::{number:x}" for number in range(0x100, 0x100 + PODS)]
    with line() as lab, translator(lab.node):
        server = lab.internet.start(*program, "serve", str(PORT), stdout=subprocess.PIPE)
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        lab.pod.ip(*(f"addr add {pod}/64 dev eth0 nodad" for pod in pods))
        words = ("open", str(SERVER), str(PORT), str(RATE), str(SECONDS), *pods)
        counted = json.loads(lab.pod.run(*program, *words, timeout=4 * SECONDS))
    assert sum(counted[what] for what in ("made", "refused", "lost")) > 0.9 * RATE * SECONDS, (
        counted
    )
    return int(counted["refused"] + counted["lost"])
