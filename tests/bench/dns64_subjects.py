"""The DNS64 servers that are compared, each as one process on one core, on one upstream."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import dns.exception
import dns.message
import dns.query

from tests.cluster import binaries
from tests.dns64.peers import nsd_config
from tests.dns64.sidecar import free_port

PREFIX = "64:ff9b:1::/96"
ZONE = "bench.test."
SERVER_CPU, LOAD_CPU = 0, 1
CAPACITY = 262_144
"""Entries of each cache: none has to evict."""

COREFILE = """\
.:{port} {{
    bind ::1
    cache 3600 {{
        success {capacity}
        denial {capacity}
    }}
    dns64 {{
        prefix {prefix}
    }}
    forward . [::1]:{upstream}
}}
"""

UNBOUND = """\
server:
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  do-daemonize: no
  interface: ::1@{port}
  access-control: ::1 allow
  do-not-query-localhost: no
  local-zone: "test." nodefault
  num-threads: 1
  module-config: "dns64 iterator"
  dns64-prefix: {prefix}
  msg-cache-size: 256m
  rrset-cache-size: 256m
  cache-max-ttl: 3600
remote-control:
  control-enable: no
forward-zone:
  name: "."
  forward-addr: ::1@{upstream}
"""

RECORDS = """\
$ORIGIN bench.test.
@ 3600 IN SOA ns admin 1 3600 600 86400 3600
@ 3600 IN NS ns
ns 3600 IN A 198.51.100.53
* 3600 IN A 198.51.100.7
"""


class Process:
    """A server that has answered once: `start_ms` is how long that took from its start."""

    def __init__(self, name: str, command: list[str], port: int, cpu: int, log: Path) -> None:
        self.name = name
        self.port = port
        self._log = log.open("wb")
        began = time.monotonic()
        self.process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *command], stdout=self._log, stderr=self._log
        )
        query = dns.message.make_query(f"start.{ZONE}", "A")
        while True:
            try:
                dns.query.udp(query, "::1", 0.05, port)
                break
            except (OSError, dns.exception.DNSException):
                if self.process.poll() is not None or time.monotonic() - began > 30:
                    raise RuntimeError(f"{name} doesn't serve: {log.read_text()}") from None
                time.sleep(0.002)
        self.start_ms = (time.monotonic() - began) * 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Resident memory now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmRSS")


def upstream(directory: Path) -> Process:
    """The authoritative server, on the load's core: every name below the zone has one A."""
    port = free_port()
    (directory / "zone").write_text(RECORDS)
    config = nsd_config(directory, port, {ZONE: "zone"})
    command = ["/usr/sbin/nsd", "-d", "-c", str(config)]
    return Process("nsd", command, port, LOAD_CPU, directory / "nsd.log")


def _corefile(directory: Path, port: int, upstream_port: int) -> Path:
    path = directory / f"Corefile-{port}"
    text = COREFILE.format(port=port, capacity=CAPACITY, prefix=PREFIX, upstream=upstream_port)
    path.write_text(text)
    return path


def ours(directory: Path, upstream_port: int) -> Process:
    """The sidecar."""
    port = free_port()
    path = _corefile(directory, port, upstream_port)
    command = [sys.executable, "-m", "nat64_dataplane.dns64.cli", "run", "--corefile", str(path)]
    return Process("ours", command, port, SERVER_CPU, directory / "ours.log")


def coredns(directory: Path, upstream_port: int) -> Process:
    """CoreDNS with the same Corefile."""
    port = free_port()
    path = _corefile(directory, port, upstream_port)
    program = binaries.ensure("coredns")["coredns"]
    command = [str(program), "-conf", str(path)]
    return Process("coredns", command, port, SERVER_CPU, directory / "coredns.log")


def unbound(directory: Path, upstream_port: int) -> Process:
    """Unbound with its dns64 module."""
    port = free_port()
    config = directory / "unbound.conf"
    config.write_text(
        UNBOUND.format(port=port, directory=directory, prefix=PREFIX, upstream=upstream_port)
    )
    command = ["/usr/sbin/unbound", "-d", "-c", str(config)]
    return Process("unbound", command, port, SERVER_CPU, directory / "unbound.log")


SUBJECTS: dict[str, Callable[[Path, int], Process]] = {
    "ours": ours,
    "coredns": coredns,
    "unbound": unbound,
}
