"""The real agent, run on a lab node as an operator would run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import yaml

from tests.lab.node import PATIENCE, Node, wait_for
from tests.lab.topology import PREFIX

PROGRAM = str(Path(sys.executable).with_name("nat64-translator"))


class Translator:
    """One instance on one node: its config file, its agent process, its command line."""

    def __init__(self, node: Node, name: str = "default", **config: Any) -> None:
        self.node = node
        self.name = name
        self.interface = config.get("interface", f"nat64-{name}")
        self._scratch = tempfile.TemporaryDirectory(prefix="nat64-lab-")
        self.file = Path(self._scratch.name) / "config.yaml"
        self.log_file = Path(self._scratch.name) / "agent.log"
        self.port = 9464
        self.process: subprocess.Popen[str] | None = None
        self.arguments: list[str] = []
        self.configure(**config)

    def configure(self, **config: Any) -> None:
        """Write the config file; a running agent notices."""
        listen = config.setdefault("listen", f"[::]:{self.port}")
        self.port = int(listen.rpartition(":")[2])
        prefix = config.pop("prefix", PREFIX)
        text = yaml.safe_dump({"name": self.name, "prefix": str(IPv6Network(prefix)), **config})
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def run(self, command: str, *arguments: str, check: bool = True) -> str:
        """Run one `nat64-translator` command on the node and return what it prints."""
        return self.node.run(PROGRAM, command, *arguments, check=check)

    def json(self, command: str) -> Any:
        """The JSON output of a command that shows something."""
        return json.loads(self.run(command, "--name", self.name, "-o", "json"))

    def prepare(self) -> None:
        """Set the node's sysctls."""
        self.run("prepare", "--config", str(self.file))

    def start(self, *wrapper: str) -> None:
        """Start the agent, under `wrapper` if given, without waiting for it."""
        with self.log_file.open("a") as log:
            self.process = self.node.start(
                *wrapper, PROGRAM, "run", "--config", self.file, *self.arguments, stderr=log
            )

    def started(self) -> Translator:
        """Prepare, start, and wait until packets are translated as configured."""
        self.prepare()
        self.start()
        self.wait_ready()
        return self

    def kill(self) -> None:
        """Kill the agent as the kernel would: it can't do anything before it ends."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Tell the agent to end, as Kubernetes does, and check that it ends well."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=PATIENCE) == 0, self.log()

    def remove(self) -> str:
        """Remove the translator from the node."""
        return self.run("remove", "--name", self.name)

    def log(self) -> str:
        """What the agent has logged so far."""
        return self.log_file.read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Status code and body of an HTTP GET to the agent; code 0 where it doesn't answer."""
        url = f"http://[::1]:{self.port}/{path}"
        answer = self.node.run("curl", "-gsS", "-w", "\n%{http_code}", url, check=False)
        body, _, code = answer.rpartition("\n")
        return int(code or 0), body

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
