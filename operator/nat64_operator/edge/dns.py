"""How to ask the cluster's DNS whether it synthesizes: the proof that CoreDNS is wired."""

from __future__ import annotations

import socket
import time
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from nat64_operator.coredns.wiring_case import Answer

NAME = "ipv4only.arpa."
"""It has two IPv4 addresses and will never have an IPv6 one (RFC 7050 section 8.2). So an IPv6
answer under our prefix comes from a DNS64, and the question needs no internet."""
TIMEOUT = 2.0
TIMES = 24
"""If one of two servers has yet to read its configuration, the other one answers all questions only
once in sixteen million times."""


def ask(prefix: str, server: str) -> Answer:
    """Ask until servers disagree, or many times, and report the answers. There may be several
    servers behind one address, and each reads its configuration in its own time.
    """
    asked = time.time()
    network = IPv6Network(prefix)
    query = dns.message.make_query(NAME, dns.rdatatype.AAAA)
    synthesized, said = 0, ""
    try:
        address, port = split(server)
        for already in range(TIMES):
            if 0 < synthesized < already:
                return Answer(False, f"{synthesized} of {already} answers are synthesized", asked)
            response, _ = dns.query.udp_with_fallback(query, address, timeout=TIMEOUT, port=port)
            found = addresses(response)
            synthesized += any(a in network for a in found)
            code = dns.rcode.to_text(response.rcode())
            said = ", ".join(map(str, found)) or f"no IPv6 address ({code})"
    except (dns.exception.DNSException, OSError) as error:
        return Answer(False, f"{server}: {str(error) or type(error).__name__}", asked)
    if synthesized == TIMES:
        return Answer(True, f"{NAME} is {said}", asked)
    if synthesized:
        return Answer(False, f"{synthesized} of {TIMES} answers are synthesized", asked)
    unknowable = not _knows(address, port)
    if unknowable:
        said += f"; the upstream does not know {NAME}"
    return Answer(False, f"{NAME} has {said}", asked, clear=True, unknowable=unknowable)


def addresses(response: dns.message.Message) -> list[IPv6Address]:
    """Every IPv6 address in an answer."""
    return [
        IPv6Address(rdata.address)
        for rrset in response.answer
        if rrset.rdtype == dns.rdatatype.AAAA
        for rdata in rrset
    ]


def _knows(address: str, port: int) -> bool:
    """Whether the server knows the name's IPv4 addresses; without them, nothing could be
    synthesized.
    """
    query = dns.message.make_query(NAME, dns.rdatatype.A)
    try:
        response, _ = dns.query.udp_with_fallback(query, address, timeout=TIMEOUT, port=port)
    except (dns.exception.DNSException, OSError):
        return False
    return any(rrset.rdtype == dns.rdatatype.A for rrset in response.answer)


def split(server: str) -> tuple[str, int]:
    """Address and port of `192.0.2.1`, `2001:db8::1`, `192.0.2.1:5353` or `[2001:db8::1]:5353`."""
    if server.startswith("["):
        address, _, port = server[1:].partition("]")
        return address, int(port.lstrip(":") or 53)
    if server.count(":") == 1:
        address, _, port = server.partition(":")
        return address, int(port)
    return server, 53


def cluster_server(path: Path = Path("/etc/resolv.conf")) -> str:
    """The resolver of this pod, which is that of every pod. Raises ValueError if there is none."""
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            return words[1]
    raise ValueError(f"{path} names no nameserver: set --cluster-dns")


def own_address(server: str) -> str:
    """This pod's address, as `server` sees it; empty if there is no route there."""
    address, port = split(server)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError:
            return ""
        found: str = probe.getsockname()[0]
    return found.partition("%")[0]


def local_names(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """Names of the cluster itself, in the usual domain and in the one that this pod has."""
    domains = ["cluster.local"]
    lines = path.read_text().splitlines() if path.exists() else []
    for words in map(str.split, lines):
        if words[:1] == ["search"]:
            domains += [w[4:].rstrip(".") for w in words[1:] if w.startswith("svc.")]
    return tuple(f"kubernetes.default.svc.{domain}." for domain in dict.fromkeys(domains))
