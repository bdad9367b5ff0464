"""One client's path to one destination, as this node sees it: names, routes, policy, state,
packets.

First the program itself decides about the client's packet, on a copy of the maps. Only then, and
labelled so, comes the result of a connection of the node itself: whether the IPv4 side answers.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
from pyroute2 import IPRoute

from nat64_dataplane import pref64
from nat64_dataplane.config import Config
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.topology import probe_address
from nat64_dataplane.translator.config_source import ConfigSource
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath.abi import ConfigFlag, SourceFlag, Verdict
from nat64_dataplane.translator.datapath.counters import DROP_REASONS
from nat64_dataplane.translator.datapath.datapath import Datapath
from nat64_dataplane.translator.datapath.rehearsal import Rehearsal
from nat64_dataplane.translator.report import neighbours, show_commands
from nat64_dataplane.translator.report.node_inspection import route_to
from nat64_dataplane.translator.run_directory import RunDir, Status

DNS_SECONDS = 3
CONNECT_SECONDS = 3


def run(options: argparse.Namespace) -> int:
    """Print the trace as JSON."""
    config = ConfigSource(options.config, options.node_file, options.node).current
    options.name = config.name
    status = RunDir(options.run_dir, config.name).read_status()
    found: dict[str, Any] = {
        "name": config.name,
        "prefix": str(config.prefix),
        "clatPrefix": str(config.clat.prefix) if config.clat else None,
        "interface": config.interface,
        "programmed": bool(status and status.programmed),
        "reason": status.reason if status else "no agent has run on this node",
        "dns": None,
        "destinations": [],
    }
    if config.topology:
        found["role"] = config.topology.role.value
    addresses: list[IPv6Address] = list(options.destination)
    if options.host:
        found["dns"] = {
            kind: ask(options.host, kind, options.server, options.dns_port)
            for kind in ("AAAA", "A")
        }
        if not options.names_only:
            addresses += map(IPv6Address, found["dns"]["AAAA"]["addresses"])
    with show_commands.opened(options) as datapath, IPRoute(strict_check=True) as ipr:
        where = Where(*_links(ipr, config, options.link, options.client))
        for address in addresses:
            if config.is_router:
                row = steered(ipr, datapath, config, options.client, address, status)
            else:
                row = destination(
                    ipr, datapath, config, options.client, address, options.port, where
                )
            found["destinations"].append(row)
    print(json.dumps(found, indent=2))
    return 0


class Where(NamedTuple):
    """Links by index and name."""

    interface: int
    """The translator's."""
    link: int
    """The one that the client's packets come in on; 0 where the node itself is the client."""
    name: str | None


def destination(
    ipr: IPRoute,
    datapath: Datapath,
    config: Config,
    client: IPv6Address,
    address: IPv6Address,
    port: int,
    where: Where,
) -> dict[str, Any]:
    """Everything about one address."""
    prefix = next((each for each in config.prefixes if address in each), None)
    found: dict[str, Any] = {
        "address": str(address),
        "translated": prefix is not None,
        "route": route_to(ipr, address, client, where.link),
    }
    if prefix is None:
        return found
    if config.topology:
        found["wayBack"] = route_to(ipr, client, address, where.interface)
    ipv4 = pref64.extract(prefix, address)
    answer, onward = verdict(datapath, ipv4), route_to(ipr, ipv4)
    if answer is Verdict.NOT_GLOBAL and prefix != config.prefix:
        answer = Verdict.ALLOWED  # as policy.h has it: the rule is the well-known prefix's
    with Rehearsal(datapath, datapath.maps, client) as rehearsal:
        decision = rehearsal.syn(where.interface, where.link, address, port)
    open_ = decision.outcome == "translated" and not onward["error"]
    found |= {
        "ipv4": str(ipv4),
        "sourceAllowed": source_allowed(datapath, client, by_link=bool(where.link)),
        "verdict": answer.name,
        "ipv4Route": onward,
        "neighbour": neighbours.of_client(ipr, client),
        "decision": decision._asdict()
        | {"link": where.name, "meaning": DROP_REASONS.get(decision.reason, "")},
        # Where it can't get through, trying would only add to the drops.
        "probe": probe(datapath, address, port) if open_ else None,
        "bindings": [
            show_commands.bib_row(entry) for entry in datapath.bib() if entry.client == client
        ],
        "sessions": [
            show_commands.session_row(session)
            for session in datapath.sessions()
            if session.client == client and session.remote == ipv4
        ],
    }
    return found


def steered(
    ipr: IPRoute,
    datapath: Datapath,
    config: Config,
    client: IPv6Address,
    address: IPv6Address,
    status: Status | None,
) -> dict[str, Any]:
    """On a router node: to which gateway node the client's packets go, and why to that one."""
    prefix = next((each for each in config.prefixes if address in each), None)
    found: dict[str, Any] = {
        "address": str(address),
        "translated": False,
        "steered": prefix is not None,
        "route": route_to(ipr, address, client),
    }
    if prefix is None:
        return found
    choice = datapath.topology.choice(client, config.timeouts.tcp_established)
    gateways = datapath.topology.steering().gateways
    gateway = None if choice.number is None else gateways.get(choice.number)
    found |= {
        "ipv4": str(pref64.extract(prefix, address)),
        "sourceAllowed": source_allowed(datapath, client, by_link=True),
        "neighbour": neighbours.of_client(ipr, client),
        "gateway": None,
    }
    if gateway:
        noted = status.gateways if status else ()
        node = next((each.node for each in noted if each.address == str(gateway.address)), None)
        found["gateway"] = {
            "node": node,
            "address": str(gateway.address),
            "state": gateway.state.name.lower(),
            "why": "affinity: the client has it from before"
            if choice.kept
            else f"table: place {choice.place}, by hash of the client's address",
            "route": route_to(ipr, gateway.address),
        }
    return found


def _links(
    ipr: IPRoute, config: Config, link: str | None, client: IPv6Address
) -> tuple[int, int, str | None]:
    """The translator's link, and the client's: the one named, else the one of the way back. On a
    gateway node that is the way of replies: the node itself may reach a router node's pods by
    another one, or not at all.
    """

    def index_of(name: str) -> int:
        try:
            return socket.if_nametoindex(name)
        except OSError as error:
            raise ConfigError(f"link {name!r} isn't on this node") from error

    interface = index_of(config.interface)
    reply = (probe_address(config.prefix), interface) if config.topology else ()
    name = link or route_to(ipr, client, *reply)["interface"]
    index = index_of(name) if name else 0
    return interface, 0 if name == "lo" else index, name


def verdict(datapath: Datapath, ipv4: IPv4Address) -> Verdict:
    """What the policy in the kernel says about a destination."""
    key = abi.DESTINATION_KEY.pack(64, _active(datapath), ipv4.packed)
    value = datapath.map("destinations").get(key)
    return Verdict(abi.DESTINATION.unpack(value)[0]) if value else Verdict.ALLOWED


def source_allowed(datapath: Datapath, client: IPv6Address, *, by_link: bool) -> bool:
    """Whether the policy in the kernel lets an address in.

    `by_link`: its packets come in on a link. The node's own don't, and needn't be a pod's.
    """
    slot = _active(datapath)
    config = datapath.map("config").get(abi.U32.pack(slot))
    assert config is not None, "the config map is an array: every slot is there"
    flags = abi.CONFIG.unpack(config)[abi.CONFIG_FLAGS]
    asked = ConfigFlag.SOURCES_LISTED | (ConfigFlag.PODS_KNOWN if by_link else ConfigFlag(0))
    if not flags & asked:
        return True
    found = datapath.map("sources").get(abi.SOURCE_KEY.pack(160, slot, client.packed))
    listed = SourceFlag(abi.U32.unpack(found)[0] if found else 0)
    return bool(listed & SourceFlag.ALLOWED if flags & ConfigFlag.SOURCES_LISTED else listed)


def probe(datapath: Datapath, address: IPv6Address, port: int) -> dict[str, Any]:
    """Connect from the node itself; report the result and the counters that changed."""
    before = datapath.counters()
    began = time.monotonic()
    outcome, source = _connect(address, port)
    took = (time.monotonic() - began) * 1000
    after = datapath.counters()
    return {
        "port": port,
        "outcome": outcome,
        "milliseconds": round(took, 1),
        "source": source,
        "sourceAllowed": not source or source_allowed(datapath, IPv6Address(source), by_link=False),
        "counters": changes(before, after),
    }


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What was counted in between; other clients' packets are in it too."""
    grown = {name: after[name] - before.get(name, 0) for name in after}
    return {name: count for name, count in grown.items() if count}


def ask(host: str, kind: str, server: str, port: int) -> dict[str, Any]:
    """Ask a resolver for one type; never raises."""
    found: dict[str, Any] = {"server": server, "rcode": None, "addresses": [], "error": None}
    try:
        query = dns.message.make_query(host, kind)
        began = time.monotonic()
        response, _ = dns.query.udp_with_fallback(query, server, timeout=DNS_SECONDS, port=port)
    except (dns.exception.DNSException, OSError, ValueError) as error:
        found["error"] = str(error) or type(error).__name__
        return found
    found["milliseconds"] = round((time.monotonic() - began) * 1000, 1)
    found["rcode"] = dns.rcode.to_text(response.rcode())
    found["addresses"] = [
        rdata.address
        for rrset in response.answer
        if rrset.rdtype == dns.rdatatype.from_text(kind)
        for rdata in rrset
    ]
    return found


def _connect(address: IPv6Address, port: int) -> tuple[str, str | None]:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as tcp:
        tcp.settimeout(CONNECT_SECONDS)
        try:
            tcp.connect((str(address), port))
            outcome = "connected"
        except TimeoutError:
            outcome = "timeout"
        except ConnectionRefusedError:
            outcome = "refused"
        except OSError as error:
            outcome = os.strerror(error.errno) if error.errno else str(error)
        source = tcp.getsockname()[0]
    return outcome, None if source == "::" else source


def _active(datapath: Datapath) -> int:
    control = datapath.map("control").get(abi.U32.pack(0))
    assert control is not None, "the control map is an array"
    active: int = abi.CONTROL.unpack(control)[0]
    return active % abi.CONFIG_SLOTS
