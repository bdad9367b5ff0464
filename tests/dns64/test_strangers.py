"""The default access rules over sockets, with addresses that are nobody's own on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.node import Lab, Node, wait_for

pytestmark = pytest.mark.root

OURS = ("fd00:64::1", "10.64.0.1", "::1", "127.0.0.1")
STRANGERS = ("2001:db8::1", "203.0.113.1")

ASK = """
import json, socket, sys
import dns.exception, dns.message, dns.query, dns.rcode
source, where = sys.argv[1:]
query = dns.message.make_query("ipv4only.arpa", "A")
told = {}
for kind, send in (("udp", dns.query.udp), ("tcp", dns.query.tcp)):
    try:
        response = send(query, where, 30, 6464, source=source)
    except (EOFError, ConnectionError):
        told[kind] = "closed"
        continue
    told[kind] = [dns.rcode.to_text(response.rcode()), len(response.answer)]
family = socket.AF_INET6 if ":" in source else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as client:
    client.bind((source, 0))
    client.connect((where, 6464))
    client.send(bytes((0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)) + b"cut")
    client.send(query.to_wire())  # answered after what comes before it
    first = client.recv(512)
    told["malformed"] = "nothing" if first[1] != 7 or len(first) != 12 else "FORMERR"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A machine with local and with global addresses, and a sidecar without `acl` on it."""
    path = tmp_path_factory.mktemp("strangers") / "Corefile"
    path.write_text(".:6464 {\nbind ::\ndns64\ncache\nforward . ::1\n}\n")
    with Lab() as lab:
        node = lab.node("node")
        node.ip(
            "address add fd00:64::1/128 dev lo",
            "address add 2001:db8::1/128 dev lo",
            "address add 10.64.0.1/32 dev lo",
            "address add 203.0.113.1/32 dev lo",
        )
        command = ("-m", "nat64_dataplane.dns64.cli", "run", "--corefile", path)
        node.start(sys.executable, *command)
        wait_for("sidecar", lambda: ask(node, "::1", "::1"))
        yield node


def ask(node: Node, source: str, where: str) -> dict[str, Any]:
    found = json.loads(node.run(sys.executable, "-c", ASK, source, where))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("address", OURS)
def test_clients_nearby_are_answered(node: Node, address: str) -> None:
    found = ask(node, address, address)
    assert found["udp"] == found["tcp"] == ["NOERROR", 1]
    assert found["malformed"] == "FORMERR"


@pytest.mark.parametrize("address", STRANGERS)
def test_clients_from_anywhere_are_refused_and_get_no_format_errors(
    node: Node, address: str
) -> None:
    found = ask(node, address, address)
    assert found["udp"] == ["REFUSED", 0]
    assert found["tcp"] == "closed"
    assert found["malformed"] == "nothing"


@pytest.mark.parametrize("address", STRANGERS)
def test_it_is_who_asks_that_counts_and_not_which_address_is_asked(
    node: Node, address: str
) -> None:
    near = "fd00:64::1" if ":" in address else "10.64.0.1"
    assert ask(node, near, address)["udp"] == ["NOERROR", 1]
    assert ask(node, address, near)["udp"] == ["REFUSED", 0]
