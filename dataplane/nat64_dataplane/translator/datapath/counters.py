"""What the programs count: the names of dataplane/bpf/counters.h, in its order (a test compares).

Per direction, received = translated + passed + the sum of all that is dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from nat64_dataplane.bpf.maps import possible_cpus

DIRECTIONS = ("6to4", "4to6")

DROP_REASONS: Mapping[str, str] = {
    "not_configured": "no config is applied yet",
    "truncated": "shorter than its headers say",
    "malformed": "not an IPv6 or IPv4 packet that makes sense",
    "source_in_prefix": "IPv6 source within the NAT64 prefix (RFC 6146 section 3.4)",
    "source_illegal": "source that no host on the way can have: loopback, multicast and the like",
    "source_denied": "source not in policy.allowedSources",
    "source_behind_uplink": "source behind an uplink, not in allowedSources (one-armed router)",
    "source_without_route": "source that is the node's own, or that it has no route back to",
    "source_wrong_link": "source that belongs to the link of another pod",
    "source_not_a_pod": "source outside the cluster's pod ranges and policy.allowedSources",
    "destination_denied": "destination in policy.deniedDestinations",
    "destination_not_global": "non-global IPv4 under the well-known prefix (RFC 6052 section 3.1)",
    "destination_special": "loopback, link-local, multicast or reserved IPv4 destination",
    "destination_local": "an IPv4 address of the node itself",
    "destination_without_route": "the node has no route to the destination, or delivers it locally",
    "destination_unreachable": "the node's route to the destination is an unreachable one",
    "destination_prohibited": "the node's route or policy rule to the destination prohibits it",
    "destination_blackhole": "the node's route or policy rule to the destination is a blackhole",
    "unknown_transport": "neither TCP, UDP nor ICMP",
    "routing_header": "IPv6 routing header with segments left",
    "extension_chain": "too many or too long IPv6 extension headers",
    "extension_after_fragment": "IPv6 extension header behind a Fragment header",
    "source_route": "IPv4 source route option with hops left",
    "tcp_without_session": "TCP segment that isn't a SYN and belongs to no session",
    "hairpin_without_binding": "one of our own pool addresses at a port without a mapping",
    "filtered": "inbound from an address that the client hasn't talked to",
    "ports_exhausted": "no free port in any pool",
    "session_table_full": "limits.sessions reached",
    "client_port_limit": "limits.portsPerClient reached",
    "client_port_share": "as many ports as are left in the pool, once it is scarce",
    "client_session_limit": "limits.sessionsPerClient reached",
    "client_session_rate": "limits.newSessionsPerSecondPerClient reached",
    "inbound_session_limit": "three quarters of limits.sessions were opened from IPv4",
    "icmp_type": "ICMP type or code that has no counterpart",
    "icmp_without_session": "ICMP error about a packet that we didn't translate",
    "icmp_error_in_error": "ICMP error about an ICMP error",
    "icmp_inner_malformed": "ICMP error whose inner packet can't be read",
    "icmp_ends_differ": "ICMP error that isn't sent to the source of the packet in it",
    "icmp_fragment": "fragmented ICMP (RFC 7915 section 1.2)",
    "udp_zero_checksum_fragment": "fragmented UDP over IPv4 without a checksum",
    "fragment_unexpected": "first fragment without ports, or fragment of a packet that was refused",
    "fragment_expired": "fragment whose first fragment never arrived",
    "fragment_buffer_full": "fragment that arrived before the first one while too many were held",
    "fragmenter_foreign": "sent to the translator's own address for fragmentation (240.64.0.0/16)",
    "too_big": "too long for the other IP version",
    "internal": "a kernel helper failed: out of memory, or a bug",
    # Topology Gateway; the last ones are counted at the tunnel's device.
    "no_gateway": "no gateway node is healthy",
    "gateway_not_on_link": "transport Direct, and the gateway node isn't a neighbour",
    "no_router": "a reply to an address that is behind no router node",
    "tunnel_not_member": "tunnel packet that isn't from a node of the other role",
    "tunnel_source_of_another": "tunnel packet whose inner source isn't of the node that sent it",
    "tunnel_source": "tunnel packet from a gateway node, neither from the NAT64 prefix nor its own",
    "tunnel_destination": "tunnel packet from a router node that isn't to the NAT64 prefix",
}
"""Every reason to drop, with what it means, in the kernel program's order."""

PLAIN = (
    "none",
    "received",
    "translated",
    "sent_fast",
    "sent_kernel",
    "hairpinned",
    "icmp_errors_translated",
    "icmp_errors_sent",
    "icmp_errors_suppressed",
    "fragments_translated",
    "sessions_opened",
    "sessions_closed",
    "bindings_opened",
    "bindings_closed",
    "port_claims_lost",
    "ports_lent",
    "mss_clamped",
    "ports_given_back",
    "resets_sent",
    "resets_suppressed",
    "passed",
    "held",
    "fragmented",
)

TOPOLOGY = ("steered", "returned", "clients_assigned", "probes_sent", "probes_answered")
"""In topology Gateway."""
_FIRST_OF_TOPOLOGY = "no_gateway"


def _names() -> Iterator[str]:
    yield from PLAIN
    for reason in DROP_REASONS:
        if reason == _FIRST_OF_TOPOLOGY:
            yield from TOPOLOGY
        yield f"dropped_{reason}"
    yield "offloaded"


NAMES: tuple[str, ...] = tuple(_names())
"""New ones come last, so that older maps have the same names in front."""

_VALUES = struct.Struct(f"={len(DIRECTIONS) * len(NAMES)}Q")
VALUE_SIZE = _VALUES.size


def read(value: bytes) -> dict[str, int]:
    """Sum a per-CPU value of the counters map: `NAME_DIRECTION` to count.

    The map may be of an older version, which has fewer names; what it lacks is 0.
    """
    old = struct.Struct(f"={len(value) // possible_cpus() // 8}Q")
    known = len(old.unpack_from(value)) // len(DIRECTIONS)
    totals = {f"{name}_{direction}": 0 for direction in DIRECTIONS for name in NAMES}
    names = [f"{name}_{direction}" for direction in DIRECTIONS for name in NAMES[:known]]
    for counts in old.iter_unpack(value):
        for name, count in zip(names, counts, strict=True):
            totals[name] += count
    return {name: total for name, total in totals.items() if not name.startswith("none_")}


def written(totals: Mapping[str, int]) -> bytes:
    """A per-CPU value of the counters map that reads as `totals`."""
    names = (f"{name}_{direction}" for direction in DIRECTIONS for name in NAMES)
    first = _VALUES.pack(*(totals.get(name, 0) for name in names))
    return first.ljust(_VALUES.size * possible_cpus(), b"\0")
