"""The sidecar beside the real CoreDNS: one Corefile, one authoritative server, the same answers.

Every difference must be explained by a row of `ACCEPTED`, every such row must be needed, and stand
in docs/dns64.md with the RFC section that asks for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from nat64_dataplane.dns64.answer import UDP_SIZE
from tests.dns64.differential import NAMES, ZONE, ZONE_TEXT, Case, ask, cases, differences
from tests.dns64.peers import CoreDNS, Nsd
from tests.dns64.sidecar import Sidecar
from tests.dns64.upstreams import Upstream, Zone

ROOT = Path(__file__).parents[2]
LOCAL_PREFIX = "dns64 64:ff9b:1::/96"


class Seen(NamedTuple):
    """A case with both responses, where both are messages."""

    case: Case
    stanza: str
    cached: bool
    ours: dns.message.Message
    theirs: dns.message.Message


RECORDS = frozenset({"answer", "authority", "additional"})
TTLS = frozenset({"answer ttl", "authority ttl", "additional ttl"})
EVERYTHING = RECORDS | TTLS | {"AA", "TC", "RA", "AD", "rcode", "ede"}

Explains = Callable[[Seen], frozenset[str]]


def _cd_passes(seen: Seen) -> frozenset[str]:
    return EVERYTHING if seen.case.cd and seen.case.rdtype == "AAAA" else frozenset()


def _addresses(message: dns.message.Message) -> list[str]:
    return [str(data) for r in message.answer if r.rdtype == dns.rdatatype.AAAA for data in r]


def _real(message: dns.message.Message) -> bool:
    real = ("2001:db8::6", "2001:db8::1")
    return any(address.startswith(real) for address in _addresses(message))


def _excluded(seen: Seen) -> frozenset[str]:
    mapped = any(address.startswith("::ffff:") for address in _addresses(seen.theirs))
    return EVERYTHING if mapped else frozenset()


def _special_use(seen: Seen) -> frozenset[str]:
    theirs = _addresses(seen.theirs)
    wkp = any(address.startswith("64:ff9b::") for address in theirs) or seen.theirs.flags & TC
    return EVERYTHING if seen.stanza == "dns64" and wkp else frozenset()


def _real_kept(seen: Seen) -> frozenset[str]:
    kept = "translate_all" in seen.stanza and not _addresses(seen.theirs)
    return EVERYTHING if kept and _real(seen.ours) else frozenset()


def _nxdomain_passes(seen: Seen) -> frozenset[str]:
    gone = seen.ours.rcode() == dns.rcode.NXDOMAIN and seen.case.rdtype == "AAAA"
    return frozenset({"AA"}) if gone else frozenset()


def _timeout(seen: Seen) -> frozenset[str]:
    silent = seen.case.name.startswith("silent-aaaa") and bool(seen.ours.answer)
    return EVERYTHING if silent else frozenset()


TC = dns.flags.TC

ACCEPTED: dict[str, Explains] = {
    "checking-disabled": _cd_passes,
    "cd-copied": lambda seen: frozenset({"CD"} if seen.ours.flags & dns.flags.CD else ()),
    "extended-errors": lambda seen: frozenset({"ede"} if seen.ours.extended_errors() else ()),
    "aaaa-exclusion": _excluded,
    "special-use": _special_use,
    "translate-all": _real_kept,
    "nxdomain-aliased": _nxdomain_passes,
    "ra-kept": lambda seen: frozenset({"RA"} if seen.ours.flags & dns.flags.RA else ()),
    "own-ttls": lambda seen: TTLS if seen.cached else frozenset(),
    "upstream-truncation": lambda seen: (
        EVERYTHING if seen.theirs.flags & ~seen.ours.flags & TC else frozenset()
    ),
    "udp-size": lambda seen: (
        EVERYTHING if seen.ours.flags & TC and seen.case.edns > UDP_SIZE else frozenset()
    ),
    "timeout-is-empty": _timeout,
}


def unexplained(seen: Seen, found: set[str], used: Counter[str]) -> set[str]:
    """What no row explains; rows that do are counted."""
    left = set(found)
    for key, explains in ACCEPTED.items():
        part = explains(seen) & found
        if part:
            used[key] += 1
            left -= part
    return left


def compare(
    directory: Path,
    stanza: str,
    cache: str,
    forward: str,
    asked: list[Case],
    used: Counter[str],
) -> dict[str, list[str]]:
    """Ask both everything; give what is unexplained, by what differs."""
    corefile = f".:PORT {{\nbind ::1 127.0.0.1\nerrors\n{cache}\n{stanza}\n{forward}\n}}\n"
    theirs_path = directory / "Corefile.coredns"
    theirs_path.write_text(corefile.replace("PORT", "{$PORT}"))
    wrong: dict[str, list[str]] = defaultdict(list)
    with Sidecar(directory, corefile) as ours, CoreDNS(directory, theirs_path) as theirs:

        def both(case: Case) -> None:
            mine, other = ask(case, ours.port), ask(case, theirs.port)
            found = differences(mine, other)
            if isinstance(mine, dns.message.Message) and isinstance(other, dns.message.Message):
                seen = Seen(case, stanza, bool(cache), mine, other)
                found = unexplained(seen, found, used)
            if found:
                wrong[" ".join(sorted(found))].append(f"{case}\nours:\n{mine}\ntheirs:\n{other}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(both, asked))
    return wrong


def report(wrong: dict[str, list[str]]) -> str:
    return "\n".join(f"=== {key}: {len(them)}, first:\n{them[0]}" for key, them in wrong.items())


VARIANTS = {
    "local use": LOCAL_PREFIX,
    "well known": "dns64",
    "translate all": "dns64 {\ntranslate_all\nprefix 2001:db8:64::/56\n}",
    "allow ipv4": "dns64 {\nallow_ipv4\nprefix 2001:db8:6464::/48\n}",
    "short prefix": "dns64 2001:db8::/32",
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


def test_answers_are_corednss_save_for_the_documented_differences(tmp_path: Path) -> None:
    """One test, since only all of it together shows that every accepted row is needed."""
    used: Counter[str] = Counter()
    wrong: dict[str, list[str]] = {}

    def run(name: str, stanza: str, cache: str, forward: str, asked: list[Case]) -> None:
        directory = tmp_path / name.replace(" ", "-")
        directory.mkdir()
        found = compare(directory, stanza, cache, forward, asked, used)
        wrong.update({f"{name}: {key}": cases for key, cases in found.items()})

    with Nsd(tmp_path, ZONE, ZONE_TEXT) as nsd:
        forward = f"forward . [::1]:{nsd.port}"
        for name, stanza in VARIANTS.items():
            run(name, stanza, "", forward, list(cases(NAMES)))
        without_rd = [case for case in cases(NAMES) if case.rd]
        run("cached", LOCAL_PREFIX, "cache", forward, without_rd * 2)
    with Upstream(failing) as up:
        asked = [
            Case(f"{kind}-{rdtype}.fail.test.", "AAAA", tcp=tcp)
            for kind in KINDS
            for rdtype in ("aaaa", "a")
            for tcp in (False, True)
        ]
        forward = f"forward . {up} {{\nmax_fails 0\nmax_connect_attempts 1\n}}"
        run("failing", LOCAL_PREFIX, "", forward, asked)
    assert not wrong, report(wrong)
    assert {key for key in ACCEPTED if not used[key]} == set(), "drop what no case needs"


def test_every_accepted_difference_is_documented_with_its_rfc() -> None:
    document = (ROOT / "docs/dns64.md").read_text().splitlines()
    table = document[document.index("## Differences from CoreDNS") :]
    rows = {line.split("|")[1].strip(): line for line in table if line.startswith("| ")}
    for key in ACCEPTED:
        assert "RFC" in rows.pop(key, ""), f"docs/dns64.md has no row `| {key} | ... RFC ... |`"
    keys = [key for key in rows if "-" in key and " " not in key]
    assert keys == [], "rows of docs/dns64.md that the comparison doesn't have"
