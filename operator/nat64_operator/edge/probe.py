"""What CoreDNS's clients get, and what the sidecars would answer: asked before a Corefile is
written, and for as long as it has our part.

Beside ipv4only.arpa, which a sidecar answers by itself, a name that needs an upstream is asked for.
It has a random label, so that no cache knows it, under a zone that no resolver needs to have. Any
answer counts, and NXDOMAIN is one.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Network

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from nat64_operator.coredns.wiring_case import Answer
from nat64_operator.edge import dns as cluster_dns
from nat64_operator.reconcile.actions import Question

ZONES = ("invalid.",)
"""RFC 6761 section 6.4: no resolver has names there, and each answers."""
TIMEOUT = 2.0
TIMES = 8
"""There may be several servers behind one address, one of which fails."""
FAILURES = 2
"""This many failures are no accident. A single one may be a lost datagram."""
MOST_SIDECARS = 12
"""How many of them are asked if there are thousands, chosen anew each time."""

_RESOLVES = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)


def ask(question: Question, server: str, zones: Sequence[str] = ZONES) -> Answer:
    """Ask everything that a policy's next step depends on. Never raises, whatever is answered."""
    answer = cluster_dns.ask(question.prefix, server)
    failure = failure_at(server, zones, TIMES)
    if failure and not _is_rcode(failure) and not _answers(server):
        # CoreDNS itself doesn't answer. Neither its Corefile nor a sidecar could change that.
        return answer._replace(detail=f"{server} does not answer at all", failure="")
    answer = answer._replace(failure=failure)
    if question.probe:
        unfit = _unfitness(question, zones, resolves=not failure)
        return answer._replace(probed=True, unfit=unfit)
    if failure and question.sidecars:
        direct = (*question.sidecars[:1], *_some(question.sidecars[1:]))
        sound = all(not failure_at(sidecar, zones, 1) for sidecar in direct)
        ours = sound or any(not failure_at(other, zones, 1) for other in question.upstreams)
        answer = answer._replace(ours=ours)
    return answer


def failure_at(server: str, zones: Sequence[str], times: int) -> str:
    """How a server fails names that need an upstream; empty if it resolves them."""
    failed = 0
    for number in range(times + FAILURES):
        zone = zones[number % len(zones)]
        problem = _problem(server, f"nat64-{secrets.token_hex(6)}.{zone}")
        failed += bool(problem)
        if failed >= FAILURES:
            return problem
        if number + 1 >= times and not failed:
            break
    return ""


def _unfitness(question: Question, zones: Sequence[str], *, resolves: bool) -> str:
    """Why CoreDNS must not be pointed at the sidecars. A failure that CoreDNS has today too is no
    reason.
    """
    if not question.sidecars:
        return ""
    service, *each = question.sidecars
    targets = [(service, "their Service"), *((sidecar, "one of them") for sidecar in _some(each))]
    for server, what in targets:
        for problem in _problems_at(server, question.prefix, zones, resolves=resolves):
            return f"the sidecars, asked at {server} ({what}) as CoreDNS would, {problem}"
    return ""


def _problems_at(
    server: str, prefix: str, zones: Sequence[str], *, resolves: bool
) -> Iterator[str]:
    said = ""
    for _ in range(FAILURES):
        said = _synthesis_problem(server, prefix)
        if not said:
            break
    if said:
        yield said
    if resolves and (failure := failure_at(server, zones, 1)):
        yield f"fail names that CoreDNS resolves today ({failure})"


def _synthesis_problem(server: str, prefix: str) -> str:
    try:
        response = _query(server, cluster_dns.NAME, dns.rdatatype.AAAA)
    except (dns.exception.DNSException, OSError, ValueError) as error:
        return f"give no reply: {str(error) or type(error).__name__}"
    if response.rcode() != dns.rcode.NOERROR:
        return f"answer {dns.rcode.to_text(response.rcode())}"
    found = cluster_dns.addresses(response)
    if not any(address in IPv6Network(prefix) for address in found):
        return f"do not synthesize under {prefix}"
    return ""


def _problem(server: str, name: str) -> str:
    try:
        code = _query(server, name, dns.rdatatype.AAAA).rcode()
    except dns.exception.Timeout:
        return f"no reply in {TIMEOUT:.0f} s"
    except (dns.exception.DNSException, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return "" if code in _RESOLVES else dns.rcode.to_text(code)


def _is_rcode(failure: str) -> bool:
    """Whether a failure is an answer of the server itself."""
    try:
        dns.rcode.from_text(failure)
    except (dns.exception.DNSException, ValueError):
        return False
    return True


def _answers(server: str) -> bool:
    """Whether a server answers names that CoreDNS knows by itself, with any result."""
    for name in cluster_dns.local_names():
        try:
            _query(server, name, dns.rdatatype.AAAA)
        except (dns.exception.DNSException, OSError, ValueError):
            continue
        return True
    return False


def _query(server: str, name: str, kind: dns.rdatatype.RdataType) -> dns.message.Message:
    address, port = cluster_dns.split(server)
    query = dns.message.make_query(name, kind)
    response, _ = dns.query.udp_with_fallback(query, address, timeout=TIMEOUT, port=port)
    return response


def _some(sidecars: Sequence[str]) -> Sequence[str]:
    if len(sidecars) <= MOST_SIDECARS:
        return sidecars
    return random.sample(sidecars, MOST_SIDECARS)
