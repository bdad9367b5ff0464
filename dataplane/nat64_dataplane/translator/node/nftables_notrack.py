"""Keep conntrack and the node's own TCP away from translated flows: one nftables table per
instance.

Replies leave the translator by `bpf_redirect_neigh`, past netfilter. So conntrack would see half of
each flow and call it invalid, and a CNI's masquerade, which uses conntrack, would merge all clients
into one source before they are translated. Rules cost every packet some time. So they are added
only once conntrack is at work in this network namespace, or once a NAT chain exists that could
start it, and then they stay.

Conntrack also collects fragments (at priority -400), and waits for all of a packet. Some of them go
past it: fragments from IPv4 that are short enough go straight to the pod, while the long ones come
out of the translator to be fragmented further. So packets from there are marked before that. Those
to Pref64 are marked later: a NetworkPolicy with ports needs to see whole packets.

Packets to a pool port that arrive while no hook is there yet, as on an uplink that has just
appeared, reach the node's TCP, which doesn't know the connection. Its reset must not leave the
node.

Nobody but nodes may send to the tunnel's port. A pod's packets would look like its node's once they
are masqueraded, so a node doesn't forward any to that port, to whomever: `nft list ruleset` counts
them. What goes to a translator, or comes out of one, is another matter: its ports are IPv4 hosts'.
To the port of its own node a pod must not send with a node's address as the source: IPv6 has no
reverse-path filter, so there is one for that port.

Written by netlink; `nft list ruleset` shows each rule's text as its comment.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink import nftsocket as nft
from pyroute2.nftables.expressions import genex, verdict

from nat64_dataplane.port_range import PortRange
from nat64_dataplane.translator.node import nftables_nat, nftables_tunnel
from nat64_dataplane.translator.node.nftables_expressions import (
    TRANSPORT,
    compare,
    load,
    mask,
    meta,
    to_port,
)

_RAW_PRIORITY, _BEFORE_DEFRAGMENTATION, _FILTER_PRIORITY = -300, -450, 0
_NF_INET_PRE_ROUTING, _NF_INET_LOCAL_IN, _NF_INET_FORWARD, _NF_INET_LOCAL_OUT = range(4)
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NETWORK = 1  # NFT_PAYLOAD_NETWORK_HEADER
_TCP_RST = 0x04
_NF_DROP, _NF_ACCEPT = 0, 1
_TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_LINKS = "nat64*"
"""The translators' links, as they are named by default."""
_LINK_KEYS = {"iifname": nft.Meta.NFT_META_IIFNAME, "oifname": nft.Meta.NFT_META_OIFNAME}
_CHAINS = {
    "prerouting": (_NF_INET_PRE_ROUTING, _RAW_PRIORITY),
    "fragments": (_NF_INET_PRE_ROUTING, _BEFORE_DEFRAGMENTATION),
    "output": (_NF_INET_LOCAL_OUT, _RAW_PRIORITY),
    "input": (_NF_INET_LOCAL_IN, _FILTER_PRIORITY),
    "forward": (_NF_INET_FORWARD, _FILTER_PRIORITY),
}


class Rule(NamedTuple):
    """One rule: a chain of the table, and the text that says what is not tracked."""

    chain: str
    text: str


def table_name(instance: str) -> str:
    """The table of one translator instance."""
    return f"nat64_{instance}"


def rules(
    prefixes: Collection[IPv6Network],
    interface: str,
    pools: Iterable[tuple[IPv4Network, PortRange]] = (),
    tunnel_port: int = 0,
    *,
    tracking: bool,
    by_uplink: bool = False,
) -> frozenset[Rule]:
    """The packets that must not be tracked if conntrack is `tracking` (those to the prefixes, and
    those that come out of the translator), the resets that must not leave, and the packets to
    `tunnel_port`, if there is one, that aren't from nodes.

    With `by_uplink`, replies of gateway nodes come in as they are, and aren't tracked either.
    """
    resets = {
        Rule("output", f"ip saddr {net} tcp sport {ports} tcp flags rst drop")
        for net, ports in pools
    }
    untracked = {
        Rule("fragments", f"iifname {interface} notrack accept"),
        *(
            Rule(chain, f"ip6 daddr {prefix} notrack accept")
            for chain in ("prerouting", "output")
            for prefix in prefixes
        ),
        *(Rule("prerouting", f"ip6 saddr {each} notrack accept") for each in prefixes if by_uplink),
    }
    forged = set()
    if tunnel_port:
        forged = {Rule("input", text) for text in nftables_tunnel.texts(tunnel_port)}
        forged.add(_no_forgery(tunnel_port, interface))
    return frozenset(resets | forged | (untracked if tracking else set()))


def _no_forgery(tunnel_port: int, interface: str) -> Rule:
    links = [_LINKS] if interface.startswith(_LINKS.rstrip("*")) else [_LINKS, interface]
    others = " ".join(f"{way} != {link}" for link in links for way in ("iifname", "oifname"))
    return Rule("forward", f"udp dport {tunnel_port} {others} drop")


def is_tracking(there: Iterable[Rule] = ()) -> bool:
    """Whether conntrack is at work in this network namespace, or was when `there` was written:
    a moment without any connection proves nothing. Where there is NAT, the next packet may
    set it to work, and a flow that is once merged by masquerade stays so.
    """
    if any("notrack" in rule.text for rule in there):
        return True
    try:
        return int(_TRACKED.read_text()) > 0 or nftables_nat.present()
    except FileNotFoundError:
        return False  # the module isn't there


def read(instance: str) -> frozenset[Rule] | None:
    """The rules that are there, or None without the table.

    Raises OSError where the kernel has no nf_tables or refuses the caller.
    """
    return asyncio.run(_read(table_name(instance)))


def without_lookups(all_rules: Iterable[Rule]) -> frozenset[Rule]:
    """The rules that a kernel built without `fib` expressions can have."""
    return frozenset(rule for rule in all_rules if not nftables_tunnel.needs_lookups(rule.text))


def write(instance: str, wanted: Collection[Rule]) -> str:
    """Make the table hold exactly `wanted`, in one transaction. Raises OSError. Returns what a
    kernel without `fib` expressions has said, which has the other rules then.
    """
    try:
        _write(instance, wanted)
    except OSError as error:
        if error.errno != errno.ENOENT or (rest := without_lookups(wanted)) == wanted:
            raise
        _write(instance, rest)
        return str(error)
    return ""


def _write(instance: str, wanted: Collection[Rule]) -> None:
    name = table_name(instance)
    requests = [
        # Creating before deleting makes the deletion succeed where there was no table.
        _message(nft.nft_table_msg, nft.NFT_MSG_NEWTABLE, name=name),
        _message(nft.nft_table_msg, nft.NFT_MSG_DELTABLE, name=name),
        _message(nft.nft_table_msg, nft.NFT_MSG_NEWTABLE, name=name),
    ]
    for chain in sorted({rule.chain for rule in wanted}):
        hook, priority = _CHAINS[chain]
        hooked = {"attrs": [["NFTA_HOOK_HOOKNUM", hook], ["NFTA_HOOK_PRIORITY", priority]]}
        requests.append(
            _message(
                nft.nft_chain_msg,
                nft.NFT_MSG_NEWCHAIN,
                table=name,
                name=chain,
                hook=hooked,
                type="filter",
            )
        )
    if any(nftables_tunnel.needs_lookups(rule.text) for rule in wanted):
        of_table = {"table": name, **nftables_tunnel.set_attributes()}
        requests.append(_message(nft.nft_set_msg, nft.NFT_MSG_NEWSET, **of_table))
    requests += [
        _message(
            nft.nft_rule_msg,
            nft.NFT_MSG_NEWRULE,
            table=name,
            chain=rule.chain,
            expressions=list(_expressions(rule)),
            userdata=rule.text,
        )
        for rule in sorted(wanted)
    ]
    asyncio.run(_commit(requests))


def remove(instance: str) -> bool:
    """Delete the table; False where there was none. Raises OSError as `read` does."""
    if read(instance) is None:
        return False
    name = table_name(instance)
    asyncio.run(_commit([_message(nft.nft_table_msg, nft.NFT_MSG_DELTABLE, name=name)]))
    return True


def _expressions(rule: Rule) -> Iterator[dict[str, Any]]:
    words = rule.text.split()
    if words[:2] == ["ip6", "udp"]:
        yield from nftables_tunnel.expressions(rule.text)
        return
    elif words[0] == "ip6":
        prefix = IPv6Network(words[2])
        size = prefix.prefixlen // 8  # RFC 6052's lengths are whole bytes
        yield from meta(nft.Meta.NFT_META_NFPROTO, bytes([nft.NFPROTO_IPV6]))
        yield load(_NETWORK, 8 if words[1] == "saddr" else 24, size)
        yield compare(prefix.network_address.packed[:size])
    elif words[0] == "ip":
        network, ports = IPv4Network(words[2]), PortRange.from_text(words[5])
        yield from meta(nft.Meta.NFT_META_NFPROTO, bytes([nft.NFPROTO_IPV4]))
        yield load(_NETWORK, 12, 4)
        yield mask(network.netmask.packed)
        yield compare(network.network_address.packed)
        yield from meta(nft.Meta.NFT_META_L4PROTO, bytes([socket.IPPROTO_TCP]))
        yield load(TRANSPORT, 13, 1)
        yield mask(bytes([_TCP_RST]))
        yield compare(bytes([_TCP_RST]))
        yield load(TRANSPORT, 0, 2)
        yield compare(ports.first.to_bytes(2, "big"), nft.Cmp.NFT_CMP_GTE)
        yield compare(ports.last.to_bytes(2, "big"), nft.Cmp.NFT_CMP_LTE)
        yield from verdict(code=_NF_DROP)
        return
    elif words[0] == "udp":
        yield from to_port(int(words[2]))
        for way, _, link in zip(*[iter(words[3:-1])] * 3, strict=True):
            name = link.encode()
            whole = name[:-1] if link.endswith("*") else name.ljust(16, b"\0")
            yield from meta(_LINK_KEYS[way], whole, nft.Cmp.NFT_CMP_NEQ)
        yield genex("counter", {"bytes": 0, "packets": 0})
        yield from verdict(code=_NF_DROP)
        return
    else:
        yield from meta(nft.Meta.NFT_META_IIFNAME, words[1].encode().ljust(16, b"\0"))
    yield {"attrs": [("NFTA_EXPR_NAME", "notrack")]}
    yield from verdict(code=_NF_ACCEPT)  # of this chain only: no rule of ours has more to say


def _message(kind: Callable[[], Any], command: int, **attributes: Any) -> Any:
    message = kind()
    message["attrs"] = [[kind.name2nla(key), value] for key, value in attributes.items()]  # type: ignore[attr-defined]
    message["header"]["type"] = NFNL_SUBSYS_NFTABLES << 8 | command
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND
    message["nfgen_family"] = nft.NFPROTO_INET
    return message


def _edge(kind: int) -> Any:
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    return message


async def _commit(requests: list[Any]) -> None:
    try:
        async with nft.AsyncNFTSocket() as nfnetlink:
            batch = [_edge(_BATCH_BEGIN), *requests, _edge(_BATCH_END)]
            async for _ in nfnetlink.nlm_request_batch(batch):
                pass
    except NetlinkError as error:
        raise OSError(error.code, f"nf_tables: {error}") from error


async def _read(table: str) -> frozenset[Rule] | None:
    flags = NLM_F_REQUEST | NLM_F_DUMP
    try:
        async with nft.AsyncNFTSocket(nfgen_family=nft.NFPROTO_INET) as nfnetlink:
            tables = await nfnetlink.request_get(nfgen_msg(), nft.NFT_MSG_GETTABLE, flags)
            if table not in [message.get("name") async for message in tables]:
                return None
            query = nft.nft_rule_msg()
            query["attrs"] = [["NFTA_RULE_TABLE", table]]
            found = await nfnetlink.request_get(query, nft.NFT_MSG_GETRULE, flags)
            return frozenset(
                [
                    Rule(message.get("chain"), message.get("userdata") or "")
                    async for message in found
                    if message.get("table") == table
                ]
            )
    except NetlinkError as error:
        raise OSError(error.code, f"nf_tables: {error}") from error
