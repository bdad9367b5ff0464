"""A real agent as a process on a lab node: its life, its log, and what it answers."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

from tests.lab.node import PATIENCE, Node


class Agent:
    """One agent on one node: its config file and its process."""

    program: ClassVar[str]
    """The path of its command, as the distribution installs it."""

    def __init__(self, node: Node, name: str, port: int) -> None:
        self.node = node
        self.name = name
        self.port = port
        self._scratch = tempfile.TemporaryDirectory(prefix="nat64-lab-")
        self.scratch = Path(self._scratch.name)
        self.file = self.scratch / "config.yaml"
        self.log_file = self.scratch / "agent.log"
        self.process: subprocess.Popen[str] | None = None
        self.arguments: list[str] = []

    def run(self, command: str, *arguments: str, check: bool = True) -> str:
        """Run one command of the program on the node and return what it prints."""
        return self.node.run(self.program, command, *arguments, check=check)

    def start(self, *wrapper: str) -> None:
        """Start the agent, under `wrapper` if given, without waiting for it."""
        with self.log_file.open("a") as log:
            self.process = self.node.start(
                *wrapper, self.program, "run", "--config", self.file, *self.arguments, stderr=log
            )

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
        """Remove from the node all that the agent has set up."""
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

    def write_config(self, text: str) -> None:
        """Replace the config file; a running agent notices."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)
