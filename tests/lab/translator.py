"""The real agent, run on a lab node as an operator would run it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import yaml

from tests.lab.agent import Agent
from tests.lab.node import Node, wait_for
from tests.lab.topology import PREFIX

PROGRAM = str(Path(sys.executable).with_name("nat64-translator"))


class Translator(Agent):
    """One instance on one node: its config file, its agent process, its command line."""

    program = PROGRAM

    def __init__(self, node: Node, name: str = "default", **config: Any) -> None:
        super().__init__(node, name, 9464)
        self.interface = config.get("interface", f"nat64-{name}")
        self.configure(**config)

    def configure(self, **config: Any) -> None:
        """Write the config file; a running agent notices."""
        listen = config.setdefault("listen", f"[::]:{self.port}")
        self.port = int(listen.rpartition(":")[2])
        prefix = config.pop("prefix", PREFIX)
        self.write_config(
            yaml.safe_dump({"name": self.name, "prefix": str(IPv6Network(prefix)), **config})
        )

    def json(self, command: str) -> Any:
        """The JSON output of a command that shows something."""
        return json.loads(self.run(command, "--name", self.name, "-o", "json"))

    def prepare(self) -> None:
        """Set the node's sysctls."""
        self.run("prepare", "--config", str(self.file))

    def started(self) -> Translator:
        """Prepare, start, and wait until packets are translated as configured."""
        self.prepare()
        self.start()
        self.wait_ready()
        return self

    def wait_ready(self, code: int = 200, containing: str = "") -> None:
        """Wait until /readyz answers so."""

        def ready() -> bool:
            if self.process and self.process.poll() is not None:
                raise RuntimeError(f"the agent ended: {self.log()}")
            got, body = self.get("readyz")
            return got == code and containing in body

        try:
            wait_for(f"readiness {code} {containing}", ready)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {self.get('readyz')}\n{self.log()}") from None

    def metric(self, name: str, **labels: str) -> float:
        """One sample of /metrics, summed over the labels that aren't given."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        code, body = self.get("metrics")
        assert code == 200, (code, body, self.log())
        samples = [
            line.rpartition(" ")[::2]
            for line in body.splitlines()
            if line.partition("{")[0] == name
        ]
        assert samples, f"no metric {name}"
        return sum(
            float(value) for series, value in samples if all(label in series for label in wanted)
        )

    def close(self) -> None:
        """Delete the scratch files; the node ends the processes."""
        self._scratch.cleanup()


@contextmanager
def translator(node: Node, name: str = "default", **config: Any) -> Iterator[Translator]:
    """A running translator on `node`, ready when the block begins."""
    one = Translator(node, name, **config)
    try:
        yield one.started()
    finally:
        one.close()
