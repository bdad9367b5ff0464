"""A resolver that validates, behind the sidecar: what we answer ourselves is bogus to it nowhere.

ipv4only.arpa is not signed, and its parent says so in a signed denial of its DS (RFC 8880 section
7.1). The sidecar answers the name, and has to leave the DS, which is the parent's, to upstream.
Unbound is Debian's; root and arpa are a lab's, signed by keys made for the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.dns64.peers import Nsd, Unbound, signed
from tests.dns64.sidecar import Sidecar

PREFIX = "64:ff9b:1::/96"
REVERSE = "170.0.0.192.in-addr.arpa."
SOA = "60 IN SOA ns.lab. admin.lab. 1 60 60 600000 60\n"
ROOT = f". {SOA}. 60 IN NS ns.lab.\nns.lab. 60 IN AAAA ::1\narpa. 60 IN NS ns.lab.\n"
ARPA = (
    f"arpa. {SOA}arpa. 60 IN NS ns.lab.\n"
    f"ipv4only.arpa. 60 IN NS ns.lab.\n{REVERSE} 60 IN NS ns.lab.\n"
)
UNSIGNED = {
    "ipv4only.arpa.": f"@ {SOA}@ 60 IN NS ns.lab.\n@ 60 IN A 192.0.0.170\n@ 60 IN A 192.0.0.171\n",
    REVERSE: f"@ {SOA}@ 60 IN NS ns.lab.\n@ 60 IN PTR ipv4only.arpa.\n",
}
COREFILE = f"""\
.:PORT {{
    bind ::1
    dns64 {{
        prefix {PREFIX}
    }}
    forward . [::1]:UPSTREAM
}}
"""


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unbound]:
    folder = {name: tmp_path_factory.mktemp(name) for name in ("arpa", "root", "nsd", "unbound")}
    arpa, ds = signed(folder["arpa"], "arpa.", ARPA)
    root, anchor = signed(folder["root"], ".", ROOT + ds.read_text())
    with Nsd(folder["nsd"], {".": root, "arpa.": arpa, **UNSIGNED}) as nsd:
        corefile = COREFILE.replace("UPSTREAM", str(nsd.port))
        with (
            Sidecar(folder["unbound"], corefile) as sidecar,
            Unbound(folder["unbound"], anchor, sidecar.port) as unbound,
        ):
            yield unbound
            print(unbound.log_path.read_text()[-4000:])


def ask(server: Unbound, name: str, kind: str) -> dns.message.Message:
    query = dns.message.make_query(name, kind, want_dnssec=True)
    return dns.query.udp(query, "::1", 20, server.port)


def test_it_validates(validator: Unbound) -> None:
    """What is signed comes with AD: the chain from the lab's root goes through the sidecar."""
    for name, kind in ((".", "NS"), ("ns.lab.", "AAAA"), ("arpa.", "SOA")):
        reply = ask(validator, name, kind)
        assert reply.rcode() == dns.rcode.NOERROR, name
        assert reply.flags & dns.flags.AD, name
    assert ask(validator, "absent.arpa.", "A").flags & dns.flags.AD


def test_ipv4only_arpa_is_synthesized_and_not_bogus(validator: Unbound) -> None:
    reply = ask(validator, "ipv4only.arpa.", "AAAA")
    assert reply.rcode() == dns.rcode.NOERROR
    found = {IPv6Address(rdata.address) for rrset in reply.answer for rdata in rrset}
    assert len(found) == 2
    assert all(address in IPv6Network(PREFIX) for address in found)


@pytest.mark.parametrize("name", ["ipv4only.arpa.", REVERSE])
def test_its_ds_is_denied_by_the_parent(validator: Unbound, name: str) -> None:
    reply = ask(validator, name, "DS")
    assert reply.rcode() == dns.rcode.NOERROR
    assert not reply.answer
    assert reply.flags & dns.flags.AD, "the parent's signed denial"
    [soa] = [rrset for rrset in reply.authority if rrset.rdtype == dns.rdatatype.SOA]
    assert str(soa.name) == "arpa."


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("ipv4only.arpa.", "A", "NOERROR"),
        ("ipv4only.arpa.", "TXT", "NOERROR"),
        ("x.ipv4only.arpa.", "AAAA", "NXDOMAIN"),
        (REVERSE, "PTR", "NOERROR"),
    ],
)
def test_nothing_else_of_it_is_bogus(validator: Unbound, name: str, kind: str, code: str) -> None:
    assert dns.rcode.to_text(ask(validator, name, kind).rcode()) == code
