"""The CLAT's real agent on a lab node, whose pods are nodes of the lab."""

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

PROGRAM = str(Path(sys.executable).with_name("nat64-clat"))
PREFIX = IPv6Network("64:ff9b:1:c1a7::/96")
NETNS = "/run/netns"
PORT = 9466


class Clat(Agent):
    """One agent on one node: its config file, its process, its command line."""

    program = PROGRAM

    def __init__(self, node: Node, name: str = "default") -> None:
        super().__init__(node, name, PORT)
        self.runtime_data = self.scratch / "runtime"
        self.arguments = ["--runtime-data", str(self.runtime_data)]
        self.configure()
        node.run("mkdir", "-p", NETNS)

    def configure(self, prefix: IPv6Network | None = PREFIX) -> None:
        """Write the config file; a running agent notices."""
        config: dict[str, Any] = {"name": self.name, "prefix": "64:ff9b::/96"}
        if prefix:
            config["clat"] = {"prefix": str(prefix)}
        self.write_config(yaml.safe_dump(config))

    def mount(self, pod: Node, name: str) -> None:
        """Mount a pod's network namespace as a runtime does."""
        self.mount_pid(pod.pid, name)

    def mount_pid(self, pid: int, name: str) -> None:
        """The same for the namespace of a process."""
        self.node.run("touch", f"{NETNS}/{name}")
        self.node.run("mount", "--bind", f"/proc/{pid}/ns/net", f"{NETNS}/{name}")

    def unmount(self, name: str) -> None:
        """What a runtime does when a pod is gone."""
        self.node.run("umount", f"{NETNS}/{name}")
        self.node.run("rm", f"{NETNS}/{name}")

    def status(self) -> dict[str, Any]:
        """What /status says."""
        code, body = self.get("status")
        assert code == 200, (code, body, self.log())
        answer: dict[str, Any] = json.loads(body)
        return answer

    def pod(self, name: str) -> dict[str, Any]:
        """What the agent says of one mount; nothing if it doesn't know it."""
        return next((pod for pod in self.status()["pods"] if pod["netns"] == name), {})

    def written(self, name: str) -> dict[str, Any]:
        """What the status file says of one mount, its name and address too."""
        answer = json.loads(self.run("status", "--name", self.name))
        return next((pod for pod in answer["pods"] if pod["netns"] == name), {})

    def wait_ready(self) -> None:
        """Wait until every pod has been looked at."""
        self._wait("readiness", lambda: self.get("readyz")[0] == 200)

    def wait_pod(self, name: str, state: str = "SetUp", reason: str = "") -> dict[str, Any]:
        """Wait until a mount has come to a state."""

        def there() -> dict[str, Any] | None:
            pod = self.pod(name)
            good = pod.get("state") == state and pod.get("reason", "") in (reason, reason or "")
            return pod if good and (not reason or pod["reason"] == reason) else None

        found: dict[str, Any] = self._wait(f"{state} {reason} of {name}", there)
        return found

    def _wait(self, what: str, probe: Any) -> Any:
        def alive() -> Any:
            if self.process and self.process.poll() is not None:
                raise RuntimeError(f"the agent ended: {self.log()}")
            return probe()

        try:
            return wait_for(what, alive)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {self.get('status')}\n{self.log()}") from None

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 where there is none."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        code, body = self.get("metrics")
        assert code == 200, (code, body)
        return sum(
            float(line.rpartition(" ")[2])
            for line in body.splitlines()
            if line.partition("{")[0] == name and all(label in line for label in wanted)
        )

    def close(self) -> None:
        """Delete the scratch files; the node ends the process."""
        self._scratch.cleanup()


@contextmanager
def clat(node: Node) -> Iterator[Clat]:
    """A running agent on `node`, ready when the block begins."""
    one = Clat(node)
    try:
        one.start()
        one.wait_ready()
        yield one
    finally:
        one.close()
