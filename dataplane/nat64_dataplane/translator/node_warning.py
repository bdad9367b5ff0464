"""Warnings: problems that an operator of the node must know although packets are translated.

A node is programmed or it isn't. A warning says that it is, but that something will fail later.
Every warning has a reason from `REASONS`, a message about this node, and the reason's remedy.
Warnings are in status.json, in the metric `nat64_warning`, in the gateway's condition `Degraded`,
and in the output of `kubectl nat64 status` and `doctor`. To add one: a row here, one in
docs/troubleshooting.md, and `warn(REASON, ...)` where it is found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

_MOST_DETAILS = 3
_LONGEST_MESSAGE = 500


class Reason(NamedTuple):
    """What a reason means on any node, and what to do about it."""

    meaning: str
    remedy: str


REASONS: dict[str, Reason] = {
    "PortsNotReserved": Reason(
        "ports of the pool are not in ip_local_reserved_ports: the node's own sockets may get them",
        "run `nat64-translator prepare` on the node, as the init container does",
    ),
    "HookNotFirst": Reason(
        "a program of someone else runs before ours at a tcx hook and has come back after it was "
        "moved behind it: if it ends the chain, replies never reach the translator",
        "`bpftool net show` and `bpftool prog show id N` name it: make it attach after others",
    ),
    "PrefixRoutedElsewhere": Reason(
        "another route of this node leads the prefix elsewhere: packets never reach the translator",
        "`ip -6 route get` an address of the prefix shows it; keep that route off the node, as one "
        "that NetworkManager or systemd-networkd learns from a neighbour's advertisements",
    ),
    "RuleNotFollowed": Reason(
        "policy rules hold for the node's own connections only: pods' may take another way out, or "
        "leave from another address",
        "make the rules depend on destinations, sources or marks (from Linux 6.10) instead",
    ),
    "TooManyWaysOut": Reason(
        "the node's routes use more source addresses than there can be zones: the rest leaves from "
        "the address of the default route, and its replies may not come back",
        "name pools of addresses, or the `uplinks` that pods are to use",
    ),
    "ForwardingDropped": Reason(
        "a filter drops forwarded IPv4: packets that the kernel must fragment are lost, "
        "and nobody hears that a next hop doesn't answer; all others go around it",
        "let the filter accept what comes in on the translator's link, `nat64-NAME`",
    ),
    "NoReplies": Reason(
        "none of the last TCP connections through a way out has had a reply",
        "see whether the node itself reaches IPv4 from that address, and whether a router or "
        "firewall lets its ports through; `kubectl nat64 trace` shows the way of one client",
    ),
    "ListenersInPool": Reason(
        "sockets of the node listen on ports of the pool: clients do without these ports, and "
        "packets of connections that had one before still go to them",
        "move the program to another port, or take the port out of spec.pools",
    ),
    "PortsExhausted": Reason(
        "connections are refused: the pool has no free port and none that may be shared",
        "add addresses or ports to spec.pools; `kubectl nat64 bib --node` says who has them",
    ),
    "SessionTableFull": Reason(
        "connections are refused: the session table is full",
        "raise spec.limits.sessions; `kubectl nat64 sessions --node` says whose they are",
    ),
    "ClientAtLimit": Reason(
        "connections of a client are refused: it has as much as one client may have",
        "look at what the client does: `kubectl nat64 bib --node`; if it may, raise the limit of "
        "this name in spec.limits, or add ports to spec.pools where its share is used up",
    ),
    "NotAdvertised": Reason(
        "the prefix isn't advertised on a link that spec.advertise names",
        "bring the link up with a link-local address, or take it out of spec.advertise.interfaces",
    ),
    "AdvertisedToNobody": Reason(
        "the prefix is advertised on a link whose hosts are strangers: their packets are dropped",
        "list the hosts' network, and the pods', in spec.policy.allowedSources",
    ),
    "NotListed": Reason(
        "this node isn't among the gateway nodes: router nodes neither send to it nor believe it",
        "the operator lists it once the node has an IPv6 address and NODE_NAME is its name; see "
        "the ConfigMap nat64-NAME-gateways",
    ),
    "NotOnLink": Reason(
        "transport Direct, and nodes of the other role are not neighbours on a link of this node: "
        "packets to them are dropped",
        "put the nodes on one link, or use spec.gateways.transport Tunnel",
    ),
    "TunnelTooNarrow": Reason(
        "IPv6 needs 1280 bytes, and fewer fit into the tunnel: large packets between nodes become "
        "fragments, or are lost",
        "raise the MTU of the network between the nodes to 1350 at least",
    ),
    "ReversePathFilter": Reason(
        "a strict reverse-path filter drops what nodes of the other role send: it comes in on "
        "another link than the one that this node's own routes name",
        "make the filter loose, in firewalld by `IPv6_rpfilter=loose`, or let it except the link",
    ),
    "NoReversePathRule": Reason(
        "the kernel can't look up routes in nftables rules: a pod that sends to the tunnel's port "
        "of its own node, with another node's address as the source, is not stopped",
        "load the module nft_fib_inet (CONFIG_NFT_FIB_INET) and restart the agent, or have the CNI "
        "drop forged sources",
    ),
    "NoNftables": Reason(
        "the kernel has no nf_tables: conntrack sees one direction of translated flows only",
        "load the module nf_tables, or keep conntrack and masquerade rules off this node",
    ),
}
"""Every reason, in the order in which warnings are listed."""


class NodeWarning(msgspec.Struct, frozen=True, rename="camel"):
    """One warning, as status.json has it."""

    reason: str
    """CamelCase, one of REASONS."""
    message: str
    remedy: str


def warn(reason: str, *details: str) -> NodeWarning:
    """A warning about this node; `details` say what was found. Raises KeyError for no reason."""
    known = REASONS[reason]
    shown = "; ".join(details[:_MOST_DETAILS])
    if more := len(details) - _MOST_DETAILS:
        shown += f"; and {more} more" if more > 0 else ""
    message = f"{known.meaning} ({shown})" if shown else known.meaning
    return NodeWarning(reason, message[:_LONGEST_MESSAGE], known.remedy)


def ordered(found: Iterable[NodeWarning]) -> tuple[NodeWarning, ...]:
    """One warning for each reason, in the order of REASONS."""
    by_reason = {warning.reason: warning for warning in found}
    return tuple(by_reason[reason] for reason in REASONS if reason in by_reason)
