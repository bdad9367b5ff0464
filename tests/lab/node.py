"""One lab node: a network and a mount namespace that live as long as one process.

Nothing has a name in the machine's own namespaces: there is no `/run/netns` entry, no link, no
mount. When the holder process dies, the kernel removes links, mounts, pins and programs with it, so
a test that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
"""The repository, which is the working directory of programs on a node."""

PATIENCE = float(os.environ.get("NAT64_LAB_PATIENCE", "90"))
"""Seconds to wait for what takes one second on an idle machine, because other tests share it. An
emulator sets more: its second may be a minute of a busy machine.
"""

_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")

# /sys shows the namespace of the process that mounted it, so each node has its own; also bpffs and
# /run. Without duplicate address detection, addresses are there at once and don't appear later.
# Hosts don't ask for routers, which an agent under test would count and answer.
_HOLD = """
set -e
mount --make-rprivate /
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /run
sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
sysctl -qw net.ipv6.conf.default.router_solicitations=0
ip link set lo up
echo ready
exec sleep infinity
"""


class Node:
    """A machine of the lab. `run` and `start` execute programs on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started: list[subprocess.Popen[str]] = []
        self._holder = subprocess.Popen(
            [*_DIE_WITH_PARENT, "unshare", "--net", "--mount", "sh", "-c", _HOLD],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline().strip() != "ready":
            raise RuntimeError(f"lab node {name} did not start: are we root?")
        self._identity = self._namespace("net")

    @property
    def pid(self) -> int:
        """The process that holds the namespaces."""
        return self._holder.pid

    def command(self, *args: str | Path) -> list[str]:
        """The command line that runs `args` on this node."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", f"--wdns={ROOT}", "--"]
        return [*enter, *_DIE_WITH_PARENT, *map(str, args)]

    def run(self, *args: str | Path, check: bool = True, **options: Any) -> str:
        """Run a program to its end and return its standard output.

        `check` turns a failure into an AssertionError that shows its output.
        """
        options.setdefault("timeout", PATIENCE)
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.command(*args), capture_output=True, text=True, check=False, **options
        )
        if check and done.returncode:
            raise AssertionError(
                f"{self.name}: {' '.join(map(str, args))} exited {done.returncode}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done.stdout

    def start(self, *args: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a program that runs until it ends, or until the lab does.

        The process is the program itself, not a wrapper: its pid can be signalled.
        """
        process = subprocess.Popen(self.command(*args), text=True, **options)
        self.started.append(process)
        return process

    def ip(self, *lines: str) -> None:
        """Run `ip` commands, one per line, in one batch."""
        self.run("ip", "-batch", "-", input="\n".join(lines) + "\n")

    def sysctl(self, **values: int | str) -> None:
        """Set sysctls of this node's network namespace; `__` stands for a dot."""
        for key, value in values.items():
            self.run("sysctl", "-qw", f"{key.replace('__', '.')}={value}")

    def join(self, peer: Node, here: str, there: str, mtu: int = 1500) -> None:
        """Lay a veth cable to `peer` and bring both ends up."""
        self.ip(
            f"link add {here} mtu {mtu} type veth peer name {there} mtu {mtu} netns {peer.pid}",
            f"link set {here} up",
        )
        peer.ip(f"link set {there} up")

    def join_raw(self, peer: Node, here: str, there: str, mtu: int = 1500) -> None:
        """Lay a cable without Ethernet headers to `peer` and bring both ends up."""
        command = (sys.executable, "-m", "tests.lab.cable", here, str(peer.pid), there)
        cable = self.start(*command, stdout=subprocess.PIPE)
        assert cable.stdout
        assert cable.stdout.readline() == "laid\n"
        self.ip(f"link set {here} up mtu {mtu}")
        peer.ip(f"link set {there} up mtu {mtu}")

    def settle(self) -> None:
        """Wait until each link has the address that the kernel gives it, a moment after its
        carrier. What `ip` shows of links doesn't change by itself from then on.
        """

        def is_settled() -> bool:
            links = json.loads(self.run("ip", "-json", "addr", "show", "up"))
            return all(
                any(a["scope"] == "link" and "tentative" not in a for a in link["addr_info"])
                for link in links
                if link["ifname"] != "lo"
            )

        wait_for("links", is_settled)

    def close(self) -> None:
        """End everything on this node; raise AssertionError if a process is left on it."""
        for process in [*self.started, self._holder]:
            if process.poll() is None:
                process.kill()
            process.communicate()
        strays = list(self._members())
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not strays, f"{self.name}: processes {strays} outlived the test that started them"

    def _namespace(self, kind: str) -> str:
        return str(Path(f"/proc/{self.pid}/ns/{kind}").readlink())

    def _members(self) -> Iterator[int]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if str((entry / "ns/net").readlink()) == self._identity:
                        yield int(entry.name)


class Lab(contextlib.ExitStack):
    """The nodes of one test, ended together in any case."""

    def __init__(self, nodes: Mapping[str, Node] | None = None) -> None:
        super().__init__()
        self.nodes = dict(nodes or {})

    def node(self, name: str) -> Node:
        """Add a node."""
        node = self.nodes[name] = Node(name)
        self.callback(node.close)
        return node


def wait_for(what: str, probe: Callable[[], T | None], seconds: float = PATIENCE) -> T:
    """Call `probe` until it returns something true; AssertionError names `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, AssertionError):
            if found := probe():
                return found
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {seconds:g} s")
        time.sleep(0.02)
