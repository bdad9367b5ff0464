"""Real servers that others wrote: CoreDNS from its Go module, NSD from Debian."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.query

from tests.cluster import binaries
from tests.dns64.sidecar import free_port

START_SECONDS = 60.0


class Program:
    """A server in the foreground on a port of the loopback address."""

    def __init__(self, command: list[str | Path], directory: Path, port: int, **env: str) -> None:
        self.port = port
        self.log_path = directory / f"{Path(command[0]).name}-{port}.log"
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            command, cwd=directory, stdout=self._log, stderr=self._log, env=os.environ | env
        )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise RuntimeError(f"{command[0]} doesn't serve: {self.log_path.read_text()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            dns.query.udp(dns.message.make_query(".", "SOA"), "::1", 0.3, self.port)
        except (OSError, dns.exception.DNSException):
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()


class CoreDNS(Program):
    """The CoreDNS that the cluster runs, with the environment variable PORT for its Corefile."""

    def __init__(self, directory: Path, corefile: Path) -> None:
        port = free_port()
        program = binaries.ensure("coredns")["coredns"]
        super().__init__([program, "-conf", corefile], directory, port, PORT=str(port))


class Nsd(Program):
    """An authoritative server for one zone."""

    def __init__(self, directory: Path, zone: str, text: str) -> None:
        program = shutil.which("nsd", path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert program is not None, "nsd is missing: scripts/apt-install tests/cluster/apt.txt"
        port = free_port()
        (directory / "zone").write_text(text)
        config = directory / "nsd.conf"
        config.write_text(
            f"""server:
  ip-address: ::1@{port}
  username: ""
  chroot: ""
  database: ""
  zonesdir: "{directory}"
  pidfile: "{directory}/nsd.pid"
  xfrdfile: "{directory}/xfrd.state"
  zonelistfile: "{directory}/zone.list"
  xfrdir: "{directory}"
  server-count: 1
  rrl-ratelimit: 0
  verbosity: 1
remote-control:
  control-enable: no
zone:
  name: {zone}
  zonefile: zone
"""
        )
        super().__init__([program, "-d", "-c", str(config)], directory, port)


def is_listening(port: int) -> bool:
    """Whether something takes TCP connections there."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("::1", port)) == 0
