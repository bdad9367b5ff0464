"""What `nat64-translator` says to programs: numbers in its JSON, `inspect` and `trace`."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from nat64_dataplane import pref64
from tests.lab.node import wait_for
from tests.lab.topology import ECHO_PORT, HTTP_PORT, NODE_V4, POD, PREFIX, SERVER, SERVER_V4, Line
from tests.lab.translator import PROGRAM, Translator

pytestmark = pytest.mark.root


_SILENT = """
table ip6 silent {
    chain out {
        type filter hook output priority 0
        icmpv6 type nd-neighbor-advert drop
    }
}
"""


def look(nat64: Translator) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(nat64.run("inspect", "--config", str(nat64.file)))
    return found


def trace(nat64: Translator, *arguments: str, port: int = HTTP_PORT) -> dict[str, Any]:
    words = ("--config", str(nat64.file), "--client", str(POD), "--port", str(port), *arguments)
    found: dict[str, Any] = json.loads(nat64.run("trace", *words))
    return found


def to(address: str) -> tuple[str, str]:
    return "--destination", str(pref64.embed(PREFIX, IPv4Address(address)))


def test_sessions_and_bindings_have_numbers_and_can_be_filtered(
    lab: Line, nat64: Translator
) -> None:
    lab.curl("ok")
    [session] = nat64.json("sessions")
    assert session["remote"] == f"{SERVER_V4}:{HTTP_PORT}"
    assert 0 <= session["ageSeconds"] < 60 < session["expiresInSeconds"]
    [binding] = nat64.json("bib")
    assert binding["static"] is False
    assert binding["ageSeconds"] >= 0
    where = ("sessions", "--name", "default", "-o", "json")
    assert json.loads(nat64.run(*where, "--client", str(POD))) != []
    assert json.loads(nat64.run(*where, "--client", "fd64:1::99")) == []
    assert json.loads(nat64.run(*where, "--remote", f"{SERVER_V4}/32")) != []
    assert json.loads(nat64.run(*where, "--remote", "192.0.2.0/24")) == []
    assert json.loads(nat64.run("bib", "-o", "json", "--client", "fd64:1::99")) == []


def test_status_counts_sessions_ports_and_drops(lab: Line, nat64: Translator) -> None:
    lab.curl("ok")
    lab.pod.run("ping", "-c", "1", "-W", "1", "64:ff9b:1::a9fe:a9fe", check=False)
    [status] = nat64.json("status")
    assert status["programmed"] is True
    assert status["sessions"] == 1
    assert status["sessionLimit"] == 262_144
    [tcp] = [pool for pool in status["pools"] if pool["protocol"] == "tcp"]
    assert tcp == {"address": str(NODE_V4), "protocol": "tcp", "used": 1, "available": 4535}
    [drop] = [drop for drop in status["drops"] if drop["reason"] == "destination_special"]
    assert drop["packets"] == 1
    assert "loopback" in drop["meaning"]
    assert "yes" in nat64.run("status")


def test_inspect_finds_the_nodes_parts(lab: Line, nat64: Translator) -> None:
    found = look(nat64)
    assert found["uplinks"] == [{"name": "eth0", "mtu": 1500}]
    assert found["defaultRoutes"] == [{"interface": "eth0", "metric": 0}]
    assert [p["address"] for p in found["pool"]] == [str(NODE_V4)]
    assert found["sysctls"]["net.ipv6.conf.all.forwarding"] == "1"
    assert found["unreservedPorts"] == ""
    assert found["bpffs"] is True
    assert found["problems"] == []
    ours = {route["interface"] for route in found["prefixRoutes"] if route["ours"]}
    assert ours == {"nat64-default"}


def test_inspect_names_what_a_node_lacks(lab: Line, nat64: Translator) -> None:
    lab.node.ip("route del default")
    lab.node.ip(f"route add {PREFIX} via fd64:1::10 dev pod0 metric 1")
    lab.node.run("sh", "-c", "echo > /proc/sys/net/ipv4/ip_local_reserved_ports")
    found = look(nat64)
    assert [p["reason"] for p in found["problems"]] == ["NoIPv4DefaultRoute"]
    assert found["unreservedPorts"] == "61001-65535"
    assert any(not route["ours"] for route in found["prefixRoutes"])


def test_trace_walks_through_to_an_open_port(lab: Line, nat64: Translator) -> None:
    lab.node.ip("addr add fd64:1::2/128 dev lo")
    found = trace(nat64, *to(str(SERVER_V4)))
    assert found["programmed"] is True
    [way] = found["destinations"]
    assert way["address"] == str(SERVER)
    assert way["ipv4"] == str(SERVER_V4)
    assert way["route"]["interface"] == "nat64-default"
    assert way["ipv4Route"] == {
        **{"interface": "eth0", "gateway": "198.51.100.254", "source": str(NODE_V4)},
        "error": None,
    }
    assert (way["sourceAllowed"], way["verdict"]) == (True, "ALLOWED")
    assert way["probe"]["outcome"] == "connected"
    assert way["probe"]["counters"]["translated_6to4"] >= 2


def test_trace_shows_what_the_program_does_with_the_pods_packet(
    lab: Line, nat64: Translator
) -> None:
    before = [b for b in nat64.json("bib") if str(POD) in b["client"]]
    [way] = trace(nat64, *to("192.0.2.77"))["destinations"]
    decision = way["decision"]
    assert (decision["outcome"], decision["reason"], decision["link"]) == ("translated", "", "pod0")
    address, _, port = decision["source"].partition(":")
    assert address == str(NODE_V4)
    assert 61001 <= int(port) <= 65535
    assert decision["counters"]["sessions_opened_6to4"] == 1
    after = [b for b in nat64.json("bib") if str(POD) in b["client"]]
    assert after == before, "nothing of it is left where packets are"


def test_trace_does_not_let_the_node_answer_for_a_client_behind_an_uplink(
    lab: Line, nat64: Translator
) -> None:
    lab.node.ip("addr add fd64:5::1/64 dev eth0 nodad")
    words = ("--config", str(nat64.file), "--client", "fd64:5::9", *to(str(SERVER_V4)))
    [way] = json.loads(nat64.run("trace", *words))["destinations"]
    assert way["decision"]["outcome"] == "dropped"
    assert way["decision"]["reason"] == "source_behind_uplink"
    assert way["decision"]["link"] == "eth0"
    assert way["probe"] is None


def test_trace_takes_the_link_that_is_named(lab: Line, nat64: Translator) -> None:
    [way] = trace(nat64, *to(str(SERVER_V4)), "--link", "eth0")["destinations"]
    assert way["decision"]["reason"] == "source_behind_uplink"
    words = f"--config {nat64.file} --client {POD} --link eth9 --destination {SERVER}"
    out = lab.node.run("sh", "-c", f"{PROGRAM} trace {words} 2>&1", check=False)
    assert "link 'eth9' isn't on this node" in out


def test_trace_says_that_the_node_does_not_find_the_pod_and_looks_again(
    lab: Line, nat64: Translator
) -> None:
    def entries() -> str:
        return lab.node.run("ip", "-6", "neigh", "show", str(POD), "dev", "pod0")

    def seen() -> dict[str, Any]:
        [way] = trace(nat64, *to(str(SERVER_V4)))["destinations"]
        found: dict[str, Any] = way["neighbour"]
        return found

    lab.curl("ok")
    assert seen()["found"] is True
    # As where a policy is enforced that forgets neighbour discovery.
    lab.pod.run("nft", "-f", "-", input=_SILENT)
    lab.node.run("ip", "-6", "neigh", "flush", "dev", "pod0")
    lab.node.run("ping", "-c", "1", "-W", "1", str(POD), check=False)
    wait_for("an entry that failed", lambda: "FAILED" in entries())
    found = seen()
    assert (found["interface"], found["found"]) == ("pod0", False)
    lab.pod.run("nft", "delete", "table", "ip6", "silent")
    wait_for("the pod", lambda: seen()["found"])


def test_trace_says_where_it_stops(lab: Line, nat64: Translator) -> None:
    before = nat64.json("status")[0]["running"]
    nat64.configure(
        policy={"deniedDestinations": ["192.0.2.0/24"], "allowedSources": ["fd64:2::/64"]}
    )
    wait_for("the new config", lambda: nat64.json("status")[0]["running"] != before)
    found = trace(nat64, *to("192.0.2.1"), *to(str(SERVER_V4)), *to("169.254.169.254"))
    denied, server, metadata = found["destinations"]
    assert denied["verdict"] == "DENIED"
    assert metadata["verdict"] == "SPECIAL"
    assert (server["verdict"], server["sourceAllowed"]) == ("ALLOWED", False)


def test_trace_knows_that_the_node_itself_needs_no_pods_address(
    lab: Line, nat64: Translator
) -> None:
    nat64.configure(policy={"podRanges": [f"{POD}/128"]})

    def stranger() -> bool:
        found = trace(nat64, *to(str(SERVER_V4)), "--client", "fd64:1::99")
        return bool(found["destinations"][0]["decision"]["reason"] == "source_not_a_pod")

    wait_for("the pod ranges to hold", stranger)
    [way] = trace(nat64, *to(str(SERVER_V4)))["destinations"]
    assert (way["sourceAllowed"], way["decision"]["outcome"]) == (True, "translated")
    assert (way["probe"]["sourceAllowed"], way["probe"]["outcome"]) == (True, "connected")
    [own] = trace(nat64, *to(str(SERVER_V4)), "--client", way["probe"]["source"])["destinations"]
    assert (own["sourceAllowed"], own["decision"]["outcome"]) == (True, "translated")


@pytest.mark.parametrize(("port", "outcome"), [(ECHO_PORT, "connected"), (9, "refused")])
def test_trace_tells_a_closed_port(lab: Line, nat64: Translator, port: int, outcome: str) -> None:
    lab.node.ip("addr add fd64:1::2/128 dev lo")
    [way] = trace(nat64, *to(str(SERVER_V4)), port=port)["destinations"]
    assert way["probe"]["outcome"] == outcome


def test_trace_of_a_destination_outside_the_prefix_shows_its_route_only(
    lab: Line, nat64: Translator
) -> None:
    [way] = trace(nat64, "--destination", str(POD))["destinations"]
    assert way["translated"] is False
    assert way["route"]["interface"] == "pod0"


def test_trace_says_that_a_resolver_does_not_answer(lab: Line, nat64: Translator) -> None:
    found = trace(nat64, "--host", "name.example", "--server", "::1", "--dns-port", "5355")
    assert found["destinations"] == []
    assert found["dns"]["AAAA"]["error"]
