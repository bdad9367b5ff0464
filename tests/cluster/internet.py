"""The internet: an authoritative DNS server (NSD), and what `internet/server.py` serves."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cluster.network import (
    DNS_IPV4,
    DNS_IPV6,
    HTTP_IPV4,
    HTTP_IPV4_OTHER,
    HTTP_IPV6,
    INTERNET,
    processes,
)
from tests.cluster.node import detach
from tests.cluster.paths import HERE, STATE
from tests.cluster.run import ClusterError, run, wait_for

_ZONES = {".": "root.zone", "internet.example": "internet.example.zone"}
_OUTAGE = (
    "add table inet outage\nadd chain inet outage input { type filter hook input priority 0; }"
)
_NSD = """\
server:
  ip-address: {DNS_IPV4}
  ip-address: {DNS_IPV6}
  username: ""
  chroot: ""
  zonesdir: "{zones}"
  pidfile: ""
  zonelistfile: "{folder}/zone.list"
  xfrdfile: ""
  xfrdir: "{folder}"
  database: ""
  rrl-ratelimit: 0
remote-control:
  control-enable: no
"""


class Internet:
    """The network beyond the nodes, in a network namespace that is there."""

    def __init__(self, namespace: str = INTERNET, state: Path = STATE) -> None:
        self._namespace, self._folder = namespace, state / "internet"
        self.log_folder = self._folder / "logs"

    def run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> str:
        """Run a command in the internet's network namespace and return its output."""
        return run([*self.enter(), *argv], input=input, check=check)

    def enter(self) -> list[str]:
        """The words that put a command into its network namespace."""
        path = Path("/run/netns") / self._namespace
        if not path.exists():
            raise ClusterError("the cluster is not up; `make cluster-up` starts it")
        return ["nsenter", f"--net={path}", "--"]

    def start(self) -> None:
        """Start its servers and wait until they answer."""
        self.log_folder.mkdir(parents=True)
        folder, zones = self._folder, HERE / "internet"
        config = _NSD.format(DNS_IPV4=DNS_IPV4, DNS_IPV6=DNS_IPV6, folder=folder, zones=zones)
        for name, file in _ZONES.items():
            config += f'zone:\n  name: "{name}"\n  zonefile: "{file}"\n'
        (folder / "nsd.conf").write_text(config)
        self._start_dns()
        servers = [DNS_IPV4, DNS_IPV6, HTTP_IPV4, HTTP_IPV4_OTHER, HTTP_IPV6]
        program = str(HERE / "internet" / "server.py")
        script = [sys.executable, "-u", program, str(folder / "registry"), *servers]
        detach([*self.enter(), *script], self.log_folder / "http")
        wait_for(f"the internet's servers (see {self.log_folder})", self.answers, timeout=15)

    @contextlib.contextmanager
    def dns_outage(self, *, silent: bool) -> Iterator[None]:
        """For a while DNS refuses, as its server has ended; or, silent, every question is lost."""
        if silent:
            rule = "add rule inet outage input th dport 53 drop"
            self.run(["nft", "-f", "-"], input=f"{_OUTAGE}\n{rule}\n")
        else:
            for pid in self._dns_servers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_for("the internet's DNS to end", lambda: not self._dns_servers(), timeout=10)
        try:
            yield
        finally:
            if silent:
                self.run(["nft", "delete", "table", "inet", "outage"])
            else:
                self._start_dns()
                wait_for("the internet's DNS to be back", self.answers, timeout=15)

    def _start_dns(self) -> None:
        config = str(self._folder / "nsd.conf")
        detach([*self.enter(), "nsd", "-d", "-c", config], self.log_folder / "dns")

    def _dns_servers(self) -> list[int]:
        """NSD's processes, which call themselves `nsd: main` and the like."""
        found = []
        for pid in processes(self._namespace):
            with contextlib.suppress(FileNotFoundError):
                if (Path("/proc") / str(pid) / "comm").read_text().startswith("nsd"):
                    found.append(pid)
        return found

    def answers(self) -> bool:
        """Whether both servers listen."""
        listening = self.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).split()
        wanted = (socket.inet_aton(DNS_IPV4)[::-1].hex().upper() + ":0035", "0" * 32 + ":0050")
        return all(address in listening for address in wanted)
