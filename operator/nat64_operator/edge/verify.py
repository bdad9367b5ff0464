"""`helm test` runs this in an IPv6-only pod: it resolves, connects, and prints the results."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import IPv6Network, ip_address
from pathlib import Path

from nat64_operator.edge import dns

TIMEOUT = 10
PAUSE = 1.0


class VerificationError(Exception):
    """A step that failed. The text has the reason, and where to look."""


class NotYetError(VerificationError):
    """A step that may succeed soon: CoreDNS caches an earlier answer for up to 30 s."""


def run(prefix: str, connect: str, patience: float) -> int:
    """Run every step, and print each. Returns the exit code.

    A step that may still succeed is tried again for `patience` seconds: right after an install,
    CoreDNS answers from a cache that is older than the install.
    """
    deadline = time.monotonic() + patience
    said = set()
    while True:
        try:
            for line in _steps(prefix, connect):
                if line not in said:
                    print(f"ok: {line}", flush=True)
                said.add(line)
            return 0
        except VerificationError as error:
            if not isinstance(error, NotYetError) or time.monotonic() > deadline:
                print(f"failed: {error}", flush=True)
                return 1
        time.sleep(PAUSE)


def _steps(prefix: str, connect: str) -> Iterator[str]:
    addresses = ipv4_addresses(Path("/proc/net/fib_trie"))
    if addresses:
        raise VerificationError(
            f"this pod has IPv4 ({', '.join(sorted(addresses))}): it proves nothing about NAT64"
        )
    yield "this pod has no IPv4 address"
    server = dns.cluster_server()
    answer = dns.ask(prefix, server)
    if not answer.synthesized:
        raise NotYetError(
            f"the cluster's DNS ({server}) does not synthesize under {prefix}: {answer.detail}. "
            "See: kubectl get dns64policy -o yaml"
        )
    yield f"the cluster's DNS synthesizes: {answer.detail}"
    if not connect:
        yield "no target to connect to is set (helmTest.connect)"
        return
    host, _, port = connect.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as connection:
            peer = connection.getpeername()[0]
    except OSError as error:
        raise NotYetError(
            f"no connection to {host} port {port}: {error}. See: kubectl get nat64gateway -o yaml"
        ) from error
    if ip_address(peer) not in IPv6Network(prefix):
        raise VerificationError(
            f"{host} was reached at {peer}, which is not under {prefix}: it has IPv6 of its own "
            "and that proves nothing. Set helmTest.connect to a name that has IPv4 only"
        )
    yield f"connected to {host} port {port} at {peer}"


def ipv4_addresses(fib_trie: Path) -> set[str]:
    """The pod's IPv4 addresses without loopback, as its kernel lists them."""
    found, last = set(), ""
    lines = fib_trie.read_text().splitlines() if fib_trie.exists() else []
    for line in lines:
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"] and not last.startswith("127."):
            found.add(last)
    return found
