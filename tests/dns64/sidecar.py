"""The sidecar as a process of its own, asked over real sockets."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

import dns.message
import dns.query
import dns.rdatatype

TIMEOUT = 60.0
"""Seconds that anything may take to start or to happen on a machine with other work to do."""


def free_port() -> int:
    """A port that nobody listens on, over UDP and TCP alike, and that no client is given."""
    while True:
        port = random.SystemRandom().randrange(10_240, 32_768)  # below Linux's ephemeral range
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET6, kind) as probe:
                    probe.bind(("::", port))
        except OSError:
            continue
        return port


class Sidecar:
    """`nat64-dns64 run` with a Corefile whose `PORT`, `HEALTH`... are filled in with free ports."""

    def __init__(self, directory: Path, corefile: str, *, address: str = "::1") -> None:
        self.path = directory / "Corefile"
        self.address = address
        self.port = free_port()
        self.health = free_port()
        self.ready = free_port()
        self.metrics_port = free_port()
        self.write(corefile)
        self.log_path = directory / "sidecar.log"
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nat64_dataplane.dns64.cli", "run", "--corefile", self.path],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.wait()

    def write(self, corefile: str) -> None:
        """Put a new Corefile in place as the kubelet does: by rename."""
        for name, port in (
            ("METRICS", self.metrics_port),
            ("HEALTH", self.health),
            ("READY", self.ready),
            ("PORT", self.port),
        ):
            corefile = corefile.replace(name, str(port))
        draft = self.path.with_suffix(".new")
        draft.write_text(corefile)
        draft.rename(self.path)

    def wait(self) -> None:
        """Wait until it listens."""
        end = time.monotonic() + TIMEOUT
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the sidecar ended: {self.log()}")
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if probe.connect_ex((self.address, self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the sidecar doesn't listen: {self.log()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def log(self) -> str:
        return self.log_path.read_text()

    def ask(
        self,
        name: str,
        rdtype: str = "AAAA",
        *,
        tcp: bool = False,
        do: bool = False,
        cd: bool = False,
        edns: int | bool = True,
        rdclass: str = "IN",
        address: str | None = None,
        timeout: float = 20.0,
    ) -> dns.message.Message:
        """Ask over a socket and return the response as it came, TC and all."""
        query = dns.message.make_query(name, rdtype, rdclass, want_dnssec=do, use_edns=edns)
        if cd:
            query.flags |= dns.flags.CD
        send = dns.query.tcp if tcp else dns.query.udp
        return send(query, address or self.address, timeout, self.port)

    def get(self, path: str) -> tuple[int, str]:
        """Fetch one of the HTTP pages."""
        ports = {"/health": self.health, "/status": self.health, "/ready": self.ready}
        port = ports.get(path, self.metrics_port)
        try:
            with urllib.request.urlopen(f"http://[::1]:{port}{path}", timeout=5) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self) -> dict[str, object]:
        found = json.loads(self.get("/status")[1])
        assert isinstance(found, dict)
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            if line.split("{")[0].split(" ")[0] == name and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total


def eventually(check: object, timeout: float = TIMEOUT) -> None:
    """Wait until a callable is true."""
    assert callable(check)
    end = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < end, "it didn't happen in time"
        time.sleep(0.05)
