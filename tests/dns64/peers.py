"""Real servers that others wrote: CoreDNS from its Go module, NSD and Unbound from Debian."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
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


def _debians(name: str) -> str:
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert program is not None, f"{name} is missing: scripts/apt-install tests/cluster/apt.txt"
    return program


def nsd_config(directory: Path, port: int, zones: Mapping[str, str]) -> Path:
    """The config of an NSD that serves these zone files, by the names of their zones."""
    served = "".join(
        f'zone:\n  name: "{zone}"\n  zonefile: {file}\n' for zone, file in zones.items()
    )
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
{served}"""
    )
    return config


class Nsd(Program):
    """An authoritative server for some zones, by their names."""

    def __init__(self, directory: Path, zones: Mapping[str, str]) -> None:
        program = _debians("nsd")
        port = free_port()
        files = {zone: f"zone{number}" for number, zone in enumerate(zones)}
        for zone, file in files.items():
            (directory / file).write_text(zones[zone])
        config = nsd_config(directory, port, files)
        super().__init__([program, "-d", "-c", str(config)], directory, port)


class Unbound(Program):
    """A resolver that validates by its own trust anchor, and asks one server for everything."""

    def __init__(self, directory: Path, anchor: Path, server: int) -> None:
        port = free_port()
        config = directory / "unbound.conf"
        config.write_text(
            f"""server:
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  interface: ::1@{port}
  access-control: ::1 allow
  do-not-query-localhost: no
  num-threads: 1
  module-config: "validator iterator"
  trust-anchor-file: "{anchor}"
  val-log-level: 2
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: ::1@{server}
"""
        )
        super().__init__([_debians("unbound"), "-d", "-c", str(config)], directory, port)


def signed(directory: Path, zone: str, text: str) -> tuple[str, Path]:
    """A zone signed by a key made for it, and the file with the key's DS."""
    (directory / "unsigned").write_text(text)
    keygen = [_debians("ldns-keygen"), "-a", "ECDSAP256SHA256", "-k", zone]
    key = subprocess.run(keygen, cwd=directory, check=True, capture_output=True, text=True)
    name = key.stdout.strip()
    earlier = time.strftime("%Y%m%d%H%M%S", time.gmtime(time.time() - 3600))
    sign = [_debians("ldns-signzone"), "-i", earlier, "-o", zone, "-f", "signed", "unsigned", name]
    subprocess.run(sign, cwd=directory, check=True, capture_output=True)
    return (directory / "signed").read_text(), directory / f"{name}.ds"


def is_listening(port: int) -> bool:
    """Whether something takes TCP connections there."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("::1", port)) == 0
