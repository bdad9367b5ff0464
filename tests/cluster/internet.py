"""The internet: an authoritative DNS server (NSD), and what `internet/server.py` serves."""

import socket
import sys
from collections.abc import Sequence

from tests.cluster.network import (
    DNS_IPV4,
    DNS_IPV6,
    HTTP_IPV4,
    HTTP_IPV4_OTHER,
    HTTP_IPV6,
    INTERNET,
    existing,
)
from tests.cluster.node import detach
from tests.cluster.paths import HERE, STATE
from tests.cluster.run import ClusterError, run, wait_for

_ZONES = {".": "root.zone", "internet.example": "internet.example.zone"}
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
    """The network beyond the nodes."""

    log_folder = STATE / "internet" / "logs"

    def run(self, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> str:
        """Run a command in the internet's network namespace and return its output."""
        return run([*self.enter(), *argv], input=input, check=check)

    def enter(self) -> list[str]:
        """The words that put a command into its network namespace."""
        if INTERNET not in existing():
            raise ClusterError("the cluster is not up; `make cluster-up` starts it")
        return ["nsenter", f"--net=/run/netns/{INTERNET}", "--"]

    def start(self) -> None:
        """Start its servers and wait until they answer."""
        self.log_folder.mkdir(parents=True)
        folder, zones = STATE / "internet", HERE / "internet"
        config = _NSD.format(DNS_IPV4=DNS_IPV4, DNS_IPV6=DNS_IPV6, folder=folder, zones=zones)
        for name, file in _ZONES.items():
            config += f'zone:\n  name: "{name}"\n  zonefile: "{file}"\n'
        (folder / "nsd.conf").write_text(config)
        detach(
            [*self.enter(), "nsd", "-d", "-c", str(folder / "nsd.conf")], self.log_folder / "dns"
        )
        servers = [DNS_IPV4, DNS_IPV6, HTTP_IPV4, HTTP_IPV4_OTHER, HTTP_IPV6]
        script = [sys.executable, "-u", str(HERE / "internet" / "server.py"), *servers]
        detach([*self.enter(), *script], self.log_folder / "http")
        wait_for(f"the internet's servers (see {self.log_folder})", self.answers, timeout=15)

    def answers(self) -> bool:
        """Whether both servers listen."""
        listening = self.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).split()
        wanted = (socket.inet_aton(DNS_IPV4)[::-1].hex().upper() + ":0035", "0" * 32 + ":0050")
        return all(address in listening for address in wanted)
