"""What the programs know of the other nodes in topology Gateway: written, and read back.

Each method writes what differs from what the kernel has, so a call without news costs a read.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from nat64_dataplane.bpf import Map
from nat64_dataplane.translator.datapath import abi
from nat64_dataplane.translator.datapath import abi_topology as layout
from nat64_dataplane.translator.datapath.abi_topology import GatewayState, NodeRole, ProbeState

_ZERO = abi.U32.pack(0)
_ABSENT = bytes(layout.GATEWAY.size)

NO_NODE = IPv6Address("::")


class Standing(NamedTuple):
    """What this node is."""

    role: NodeRole = NodeRole.NODE
    address: IPv6Address = NO_NODE
    """The node's own, by which the others know it: the outer source in the tunnel."""
    tunnel: int = 0
    """Index of the VXLAN device; 0 where there is none."""
    vni: int = 0
    direct: bool = False
    """Whether what the node sends goes without the tunnel: transport Direct."""
    offload: bool = False
    """Whether packets of known flows go on where they leave the tunnel."""


class Gateway(NamedTuple):
    """A gateway node, as a router node's program sees it."""

    address: IPv6Address
    state: GatewayState


class Steering(NamedTuple):
    """All that steering follows at one instant."""

    gateways: Mapping[int, Gateway]
    """By number, below MAX_GATEWAYS. A gateway keeps its number for as long as it is a member."""
    table: bytes
    """The number for each place, or NO_GATEWAY: STEERING_PLACES bytes."""


class Affinity(NamedTuple):
    """The gateway that a client has."""

    client: IPv6Address
    number: int
    idle: int
    """Seconds, to within 16."""


class Choice(NamedTuple):
    """Where packets of one client go."""

    number: int | None
    """None: to no gateway."""
    kept: bool
    """Whether the client has it from before; else the table gives it."""
    place: int
    """Of the client in the table."""


class TopologyMaps:
    """The maps of topology.h."""

    def __init__(
        self, maps: Mapping[str, Map], now: Callable[[], int], changed: Callable[[], None]
    ) -> None:
        """`now` is the programs' clock; `changed` has every packet look for its route anew."""
        self._maps = maps
        self._now = now
        self._changed = changed
        self._peers: dict[bytes, bytes] | None = None

    def place_node(self, standing: Standing) -> None:
        """Say what this node is. Raises BpfError."""
        active = self._active()
        role, address, tunnel, vni, direct, offload = standing
        value = layout.TOPOLOGY.pack(address.packed, role, tunnel, vni, active, direct, offload)
        if value != self._maps["topology"].get(_ZERO):
            self._maps["topology"].set(_ZERO, value)
            self._changed()

    def standing(self) -> Standing:
        """What the programs take this node for."""
        address, role, tunnel, vni, _, direct, offload = self._topology()
        return Standing(
            NodeRole(role), IPv6Address(address), tunnel, vni, bool(direct), bool(offload)
        )

    def follow_peers(self, owners: Mapping[IPv6Network, IPv6Address]) -> None:
        """Have the programs know the nodes of the other role, and what is behind each.

        On a gateway node: the pod ranges of router nodes, by node. On both, each node's own
        address, which is added here. Raises BpfError: ENOSPC for more than 131,072 ranges.
        """
        wanted = {
            layout.PEER_KEY.pack(net.prefixlen, net.network_address.packed): node.packed
            for net, node in owners.items()
        }
        # The nodes' addresses win over ranges: a node can't take another one's by a range of /128.
        for address in {*owners.values()}:
            wanted[layout.PEER_KEY.pack(128, address.packed)] = address.packed
        table = self._maps["peers"]
        if self._peers is None:
            self._peers = {key: _node_of(table.get(key)) for key in table.keys()}  # noqa: SIM118
        if wanted == self._peers:
            return
        for key in self._peers.keys() - wanted.keys():
            table.delete(key)
            del self._peers[key]
        for key, node in wanted.items():
            if self._peers.get(key) != node:
                table.set(key, layout.PEER.pack(node, 0, 0))
                self._peers[key] = node
        self._changed()  # whose source was believed is noted for a second

    def peers(self) -> dict[IPv6Network, IPv6Address]:
        """Which node each range is behind."""
        found = {}
        for key in self._maps["peers"].keys():  # noqa: SIM118  a Map isn't a dict
            if node := _node_of(self._maps["peers"].get(key)):
                length, network = layout.PEER_KEY.unpack(key)
                found[IPv6Network((network, length))] = IPv6Address(node)
        return found

    def steer(self, gateways: Mapping[int, Gateway], table: Sequence[int]) -> None:
        """Let packets follow these from one instant on. Raises BpfError.

        `table` has the number of a gateway, or NO_GATEWAY, for each of STEERING_PLACES.
        """
        assert len(table) == layout.STEERING_PLACES, len(table)
        slots = [_ABSENT] * layout.MAX_GATEWAYS
        for number, gateway in gateways.items():
            slots[number] = layout.GATEWAY.pack(
                gateway.address.packed, gateway.state, _identity(gateway.address)
            )
        value = layout.STEERING.pack(b"".join(slots), bytes(table))
        active = self._active()
        if value == self._maps["steering"].get(abi.U32.pack(active)):
            return
        active = (active + 1) % layout.STEERING_SLOTS
        self._maps["steering"].set(abi.U32.pack(active), value)
        address, role, tunnel, vni, _, *how = self._topology()
        value = layout.TOPOLOGY.pack(address, role, tunnel, vni, active, *how)
        self._maps["topology"].set(_ZERO, value)
        self._changed()  # where a flow goes is noted for a second

    def steering(self) -> Steering:
        """What packets follow now."""
        value = self._maps["steering"].get(abi.U32.pack(self._active()))
        assert value is not None, "an array has every entry"
        slots, table = layout.STEERING.unpack(value)
        found = {}
        for number, (address, state, identity) in enumerate(layout.GATEWAY.iter_unpack(slots)):
            if identity:
                found[number] = Gateway(IPv6Address(address), GatewayState(state))
        return Steering(found, table)

    def affinities(self) -> Iterator[Affinity]:
        """Clients with their gateways, those of gateways that are no members any more left out."""
        known, now = self.steering().gateways, self._now()
        for client, value in self._maps["affinities"].items():
            if affinity := _affinity(client, value, known, now):
                yield affinity

    def choice(self, client: IPv6Address, longest: int) -> Choice:
        """Where the program sends `client`'s packets, as choose_gateway() does.

        `longest` is the time in seconds for which a client that is silent keeps its gateway: the
        timeout of established TCP connections.
        """
        gateways, table = self.steering()
        place = layout.place_of(client.packed)
        value = self._maps["affinities"].get(client.packed)
        kept = value and _affinity(client.packed, value, gateways, self._now())
        if kept and kept.idle <= longest and gateways[kept.number].state is not GatewayState.DEAD:
            return Choice(kept.number, True, place)
        given = gateways.get(table[place])
        alive = given is not None and given.state is not GatewayState.DEAD
        return Choice(table[place] if alive else None, False, place)

    def say(self, state: ProbeState) -> None:
        """Say what probes are answered, for the next SERVING_SECONDS. Raises BpfError."""
        self._maps["serving"].set(_ZERO, layout.SERVING.pack(self._now(), state))

    def said(self) -> ProbeState:
        """What probes are answered now."""
        value = self._maps["serving"].get(_ZERO)
        assert value is not None, "an array has every entry"
        second, state = layout.SERVING.unpack(value)
        fresh = self._now() - second <= layout.SERVING_SECONDS
        if fresh and state in (ProbeState.SERVING, ProbeState.DRAINING):
            return ProbeState(state)
        return ProbeState.NOT_SERVING

    def _topology(self) -> tuple[bytes, int, int, int, int, int, int]:
        value = self._maps["topology"].get(_ZERO)
        assert value is not None, "an array has every entry"
        address, role, tunnel, vni, active, direct, offload = layout.TOPOLOGY.unpack(value)
        return address, role, tunnel, vni, active, direct, offload

    def _active(self) -> int:
        return self._topology()[4] % layout.STEERING_SLOTS


def _node_of(value: bytes | None) -> bytes:
    """The node's address in a value of `peers`; the programs note the rest."""
    node: bytes = layout.PEER.unpack(value)[0] if value else b""
    return node


def _identity(address: IPv6Address) -> int:
    """Tells a gateway from one that has had its number before."""
    return zlib.crc32(address.packed) or 1


def _affinity(
    client: bytes, value: bytes, known: Mapping[int, Gateway], now: int
) -> Affinity | None:
    identity, second, number = layout.AFFINITY.unpack(value)
    gateway = known.get(number)
    if not gateway or _identity(gateway.address) != identity:
        return None
    return Affinity(IPv6Address(client), number, max(now - second, 0))
