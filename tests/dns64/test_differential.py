"""The sidecar beside the real CoreDNS: one Corefile, one upstream, the same answers.

Each of the sidecar's responses must be what RFC 6147 makes of what upstream has (`oracle`). Where
CoreDNS's is another, a row of `ACCEPTED` must explain it; every such row must be needed, and stand
in docs/dns64.md with the RFC section that asks for it.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from ipaddress import IPv6Network
from pathlib import Path
from typing import NamedTuple

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from nat64_dataplane import pref64
from tests.dns64.accepted import ACCEPTED, SECTIONS, Seen, unexplained
from tests.dns64.differential import (
    NAMES,
    ZONE,
    ZONE_TEXT,
    Case,
    Outcome,
    ask,
    cases,
    differences,
    records,
)
from tests.dns64.generated import Generated
from tests.dns64.oracle import Dns64, Reference, expected
from tests.dns64.peers import CoreDNS, Nsd
from tests.dns64.sidecar import Sidecar
from tests.dns64.upstreams import Upstream, Zone

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("DIFFERENTIAL_SEED", "6147"))
LOCAL = Dns64(IPv6Network("64:ff9b:1::/96"))
MOST_CACHED, MOST_CACHED_DENIAL = 3600, 1800


def wrong_parts(
    case: Case, ours: Outcome, right: dns.message.Message, elapsed: float | None
) -> set[str]:
    """What is not as it has to be. From a cache that is `elapsed` seconds old, TTLs are lower by no
    more than that, from what the cache holds at most.
    """
    found = differences(ours, right)
    if elapsed is None or isinstance(ours, str):
        return found
    types = {dns.rdatatype.to_text(rrset.rdtype) for rrset in right.answer}
    has_data = case.rdtype in types or (types and case.rdtype == "ANY")
    positive = has_data and right.rcode() == dns.rcode.NOERROR
    most = MOST_CACHED if positive else MOST_CACHED_DENIAL
    for section in SECTIONS:
        mine, whole = records(ours, section), records(right, section)
        ages = [min(whole[key], most) - mine[key] for key in mine if key in whole]
        if all(0 <= age <= elapsed for age in ages):
            found.discard(f"{section} ttl")
    return found


class Run(NamedTuple):
    """One comparison: a stanza in front of an upstream, and what is asked."""

    name: str
    dns64: Dns64
    asked: list[Case]
    cache: str = ""


def compare(
    run: Run, directory: Path, forward: str, reference: Reference, used: Counter[str]
) -> dict[str, list[str]]:
    """Ask both everything; give what is wrong or unexplained, by what differs."""
    plugins = "\n".join(("bind ::1 127.0.0.1", "errors", run.cache, run.dns64.text, forward))
    corefile = f".:PORT {{\n{plugins}\n}}\n"
    theirs_path = directory / "Corefile.coredns"
    theirs_path.write_text(corefile.replace("PORT", "{$PORT}"))
    wrong: dict[str, list[str]] = defaultdict(list)
    began = time.monotonic()
    with Sidecar(directory, corefile) as ours, CoreDNS(directory, theirs_path) as theirs:

        def both(case: Case) -> None:
            mine, other = ask(case, ours.port), ask(case, theirs.port)
            elapsed = time.monotonic() - began + 1 if run.cache else None
            forms = [
                (wrong_parts(case, mine, form, elapsed), form)
                for form in expected(case, run.dns64, reference)
            ]
            parts, right = min(forms, key=lambda form: len(form[0]))
            bad = {f"not right: {part}" for part in parts}
            found = differences(mine, other)
            if isinstance(mine, dns.message.Message) and isinstance(other, dns.message.Message):
                first = reference(case.name, case.rdtype, case.rdclass)
                second = reference(case.name, "A", case.rdclass)
                seen = Seen(case, run.dns64, bool(run.cache), mine, other, right, first, second)
                found = unexplained(seen, found, used)
            if bad or found:
                said = f"{case}\nours:\n{mine}\ntheirs:\n{other}\nright:\n{right}"
                wrong[" ".join(sorted(bad | found))].append(said)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(both, run.asked))
    return {f"{run.name}: {key}": them for key, them in wrong.items()}


def report(wrong: dict[str, list[str]]) -> str:
    return "\n".join(
        f"=== {key}: {len(them)}, first:\n{them[0][:5000]}" for key, them in wrong.items()
    )


VARIANTS = {
    "local use": LOCAL,
    "well known": Dns64(pref64.WELL_KNOWN),
    "translate all": Dns64(IPv6Network("2001:db8:64::/56"), translate_all=True),
    "allow ipv4": Dns64(IPv6Network("2001:db8:6464::/48"), allow_ipv4=True),
    "short prefix": Dns64(IPv6Network("2001:db8::/32")),
}


KINDS = (
    *("servfail", "refused", "formerr", "notimp", "yxdomain", "silent", "nxdomain", "empty"),
    *("cut", "nosoa"),
)
FAILING = Zone.of(
    *(f"{kind}-aaaa.fail.test. 300 IN A 198.51.100.7" for kind in KINDS),
    *(f"{kind}-a.fail.test. 300 IN MX 1 x.fail.test." for kind in KINDS),
    soa="fail.test. 900 IN SOA ns.fail.test. admin.fail.test. 1 3600 600 86400 300",
)


def failing(query: dns.message.Message, proto: str) -> dns.message.Message | None:
    """A resolver that fails as the first label says, for the type that it says."""
    question = query.question[0]
    label = question.name.labels[0].decode().lower()
    kind, _, rdtype = label.rpartition("-")
    response = FAILING(query, proto)
    if dns.rdatatype.to_text(question.rdtype).lower() != rdtype:
        return response
    if kind == "silent":
        return None
    if kind == "cut" and proto == "udp":
        response.flags |= dns.flags.TC
        response.answer.clear()
    elif kind == "nosoa":
        response.authority.clear()
    elif kind in ("servfail", "refused", "formerr", "notimp", "yxdomain", "nxdomain"):
        response.answer.clear()
        response.set_rcode(dns.rcode.from_text(kind))
    return response


def from_nsd(port: int) -> Reference:
    """What an authoritative server has; asked once for each."""

    @cache
    def look_up(name: str, rdtype: str, rdclass: str) -> dns.message.Message:
        query = dns.message.make_query(name, rdtype, rdclass, use_edns=0, payload=4096)
        return dns.query.tcp(query, "::1", 20, port)

    return lambda name, rdtype, rdclass: look_up(name.lower(), rdtype, rdclass)


def from_failing(name: str, rdtype: str, rdclass: str) -> dns.message.Message | None:
    return failing(dns.message.make_query(name, rdtype, rdclass), "tcp")


def test_answers_are_right_and_corednss_save_for_the_documented_differences(
    tmp_path: Path,
) -> None:
    """One test, since only all of it together shows that every accepted row is needed."""
    used: Counter[str] = Counter()
    wrong: dict[str, list[str]] = {}

    def go(run: Run, forward: str, reference: Reference) -> None:
        directory = tmp_path / run.name.replace(" ", "-")
        directory.mkdir()
        wrong.update(compare(run, directory, forward, reference, used))

    made = Generated(SEED)
    zone = ZONE_TEXT + "\n".join(made.lines) + "\n"
    with Nsd(tmp_path, {ZONE: zone}) as nsd:
        go_on = partial(go, forward=f"forward . [::1]:{nsd.port}", reference=from_nsd(nsd.port))
        for name, dns64 in VARIANTS.items():
            go_on(Run(name, dns64, [*cases(NAMES), *made.cases(500)]))
        again = [case for case in [*cases(NAMES), *made.cases(500)] if case.rd]
        go_on(Run("cached", LOCAL, again * 2, "cache"))
    with Upstream(failing) as up:
        asked = [
            Case(f"{kind}-{rdtype}.fail.test.", "AAAA", tcp=tcp)
            for kind in KINDS
            for rdtype in ("aaaa", "a")
            for tcp in (False, True)
        ]
        forward = f"forward . {up} {{\nmax_fails 0\nmax_connect_attempts 1\n}}"
        go(Run("failing", LOCAL, asked), forward, from_failing)
    assert not wrong, f"DIFFERENTIAL_SEED={SEED}\n{report(wrong)}"
    assert {key for key in ACCEPTED if not used[key]} == set(), "drop what no case needs"


def test_every_accepted_difference_is_documented_with_its_rfc() -> None:
    document = (ROOT / "docs/dns64.md").read_text().splitlines()
    table = document[document.index("## Differences from CoreDNS") :]
    rows = {line.split("|")[1].strip(): line for line in table if line.startswith("| ")}
    for key in ACCEPTED:
        assert "RFC" in rows.pop(key, ""), f"docs/dns64.md has no row `| {key} | ... RFC ... |`"
    keys = [key for key in rows if "-" in key and " " not in key]
    assert keys == [], "rows of docs/dns64.md that the comparison doesn't have"
