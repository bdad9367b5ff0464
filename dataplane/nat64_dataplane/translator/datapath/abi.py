"""Map keys and values, as dataplane/bpf/abi_*.h lay them out (a test compares sizes and offsets).

Addresses and ports are in network order, everything else in the machine's. Each record here reads
and writes one C struct; the names are the same.
"""

from __future__ import annotations

import enum
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

ABI = 7
"""NAT64_ABI: raised when the meaning of a map's bytes changes. A changed size shows without it."""

CONFIG_SLOTS = 2
MAX_POOL_RANGES = 4096
PORTS_PER_BLOCK = 4096
MAX_PORT_BLOCKS = 32768
PORT_WORDS = PORTS_PER_BLOCK // 64
TIMER_SLOTS = 8
OUTSIDE_LINKS = 4
MAX_ZONES = 16
MAX_MARKS = 4
MANY_LINKS = 0xFFFFFFFF

TCP, UDP, ICMP = 6, 17, 1
PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


class ConfigFlag(enum.IntFlag):
    """enum config_flag."""

    ADDRESS_DEPENDENT = 1
    OVERLOAD_TCP = 2
    COPY_TRAFFIC_CLASS = 4
    SOURCES_LISTED = 8
    RAW_UPLINKS = 16
    CLAMP_MSS = 32
    PODS_KNOWN = 64
    MANY_OUTSIDE = 128
    PORT_DEPENDENT = 256
    ZONES = 512
    CLAT = 1024


class Verdict(enum.IntEnum):
    """enum destination_verdict."""

    ALLOWED = 0
    DENIED = 1
    NOT_GLOBAL = 2
    SPECIAL = 3
    LOCAL = 4


class TcpState(enum.IntEnum):
    """enum tcp_state (RFC 6146 section 3.5.2.2)."""

    CLOSED = 0
    V4_INIT = 1
    V6_INIT = 2
    ESTABLISHED = 3
    V4_FIN = 4
    V6_FIN = 5
    BOTH_FIN = 6
    TRANS = 7


class SessionFlag(enum.IntFlag):
    """SESSION_*."""

    CONFIRMED = 1
    HAIRPIN = 2
    OVERLOAD = 4
    CONTACT = 8
    PENDING = 16
    INBOUND = 32
    OUTSIDE = 64
    CLAT = 128


class UplinkFlag(enum.IntFlag):
    """UPLINK_*."""

    ETHERNET = 1
    EXTERNAL = 2
    LAN = 4


class SourceFlag(enum.IntFlag):
    """SOURCE_*."""

    ALLOWED = 1
    POD = 2


class SweepTable(enum.IntEnum):
    """enum sweep_table."""

    BINDINGS = 0
    SESSIONS = 1
    BIB6 = 2
    OVERLOADS = 3
    CLIENTS = 4
    FRAGMENTS = 5
    HELD = 6
    END = 7


class SweepHow(enum.IntFlag):
    """enum sweep_how."""

    PURGE = 1
    FOLLOW = 2
    REST = 4


BIB_STATIC = 1
BIB_CLAT = 128
TCP_SHUT = 0x40
"""Of a session's state: both ends are done with it, so its port may be given back."""
PORTS_TAKEN, PORTS_USABLE = 0, 1

U32 = struct.Struct("=I")
CONTROL = struct.Struct("=IIQ")
CONFIG = struct.Struct(
    f"=6Q5I{TIMER_SLOTS}I5I3H6s{OUTSIDE_LINKS}III4x{16 * MAX_ZONES}s{8 * MAX_MARKS}s16s"
)
CONFIG_FLAGS = 7
"""Where the flags are in CONFIG."""
CONFIG_EPOCH = 24
"""Where the epoch is in CONFIG."""
ZONE = struct.Struct("=4I")
MARK = struct.Struct("=II")
POOL_RANGE = struct.Struct("=4sHHI")
PORT_BLOCK_KEY = struct.Struct("=4s4B")
BIB6_KEY = struct.Struct("=16s2sBB4x")
BIB6 = struct.Struct("=4s2s2s4sI")
BIB4_KEY = struct.Struct("=4s2sBx")
BIB4 = struct.Struct("=16s2sBBIIIII")
SESSION_KEY = struct.Struct("=4s4s2s2sB3x")
SESSION = struct.Struct("=16s2sBBIIB3xH2xI")
SHARED = struct.Struct(f"=2I{3 * MAX_ZONES}I{MAX_ZONES}I3I{MAX_ZONES}I")
CLOSED_SESSION = struct.Struct("=16sII")
OVERLOAD_KEY = struct.Struct("=16s4s2s2s")
OVERLOAD = struct.Struct("=4s2s2x")
IPV6 = struct.Struct("=16s")
CLIENT = struct.Struct("=Q7I4x")
SHARED_CLOSED = slice(2 + 3 * MAX_ZONES, 2 + 4 * MAX_ZONES)
"""Where `closed` is in SHARED: sessions at rest, of each zone."""
SOURCE_KEY = struct.Struct("=II16s")
DESTINATION_KEY = struct.Struct("=II4s")
DESTINATION = struct.Struct("=BBBx")
UPLINK = struct.Struct("=III")
ARP_KEY = struct.Struct("=4sI")
ARP_ANSWER = struct.Struct("=6sxx")
FRAGMENT_KEY = struct.Struct("=16s16sIBBH")
FRAGMENT = struct.Struct("=16s4sII2sHBBBBB3x")
HELD_KEY = struct.Struct("=40sII")
HELD_BYTES = 1500
HELD = struct.Struct(f"=IIB3x{HELD_BYTES}s")
SWEEP = struct.Struct("=8I8Q")
SWEEP_HOLD, SWEEP_NOTED, SWEEP_ALLOWED = 3, 4, 7
"""Where `hold`, `noted` and `most` are in SWEEP."""
SWEEP_CHUNK, SWEEP_KEY_BYTES, SWEEP_MOST = 256, 24, 256
SWEEP_KEYS_BYTES = SWEEP_CHUNK * SWEEP_KEY_BYTES
ADOPT_BINDINGS = SWEEP_KEYS_BYTES // (BIB4_KEY.size + BIB4.size)
ADOPT_SESSIONS = SWEEP_KEYS_BYTES // (SESSION_KEY.size + SESSION.size)
"""How many entries one run of nat64_adopt is given."""
PORT_WORD = struct.Struct("=Q")
PORT_BLOCK_SIZE = PORT_WORDS * 8


class BibEntry(NamedTuple):
    """A binding: which IPv4 address and port stand for an IPv6 one (RFC 6146 section 3.1)."""

    protocol: str
    client: IPv6Address
    client_port: int
    address: IPv4Address
    port: int
    static: bool
    expires_in: int
    """Seconds; may be negative for one that no packet uses any more but that isn't swept yet."""
    age: int
    zone: int = 0
    """The way out that it is for: see zones.h."""

    @classmethod
    def unpack(cls, key: bytes, value: bytes, now: int) -> BibEntry:
        """Read a key and value of bib4."""
        address, port, protocol = BIB4_KEY.unpack(key)
        client, client_port, flags, zone, _generation, expires, _, created, _ = BIB4.unpack(value)
        return cls(
            PROTOCOL_NAMES.get(protocol, str(protocol)),
            IPv6Address(client),
            int.from_bytes(client_port, "big"),
            IPv4Address(address),
            int.from_bytes(port, "big"),
            bool(flags & BIB_STATIC),
            expires - now,
            now - created,
            zone,
        )


class Session(NamedTuple):
    """One session; for ICMP, `remote_port` is 0 and the ports are identifiers."""

    protocol: str
    client: IPv6Address
    client_port: int
    address: IPv4Address
    port: int
    remote: IPv4Address
    remote_port: int
    state: str
    """The TCP state; empty for the others."""
    flags: SessionFlag
    expires_in: int
    age: int

    @classmethod
    def unpack(cls, key: bytes, value: bytes, now: int) -> Session:
        """Read a key and value of sessions."""
        pool, remote, pool_port, remote_port, protocol = SESSION_KEY.unpack(key)
        client, client_port, flags, _, _generation, expires, state, _, created = SESSION.unpack(
            value
        )
        return cls(
            PROTOCOL_NAMES.get(protocol, str(protocol)),
            IPv6Address(client),
            int.from_bytes(client_port, "big"),
            IPv4Address(pool),
            int.from_bytes(pool_port, "big"),
            IPv4Address(remote),
            int.from_bytes(remote_port, "big"),
            TcpState(state & ~TCP_SHUT).name if protocol == TCP else "",
            SessionFlag(flags),
            expires - now,
            now - created,
        )


class SweepResult(NamedTuple):
    """What one sweep left and took away, of what it looked through."""

    sessions: int
    bindings: int
    fragments: int
    held: int
    removed_sessions: int
    removed_bindings: int
    removed_fragments: int
    removed_held: int
    unfinished: bool = False
    """More may have expired than it was allowed to remove."""


def slot_of(key: bytes) -> int:
    """The config slot in a key of `sources` or `destinations`."""
    return int(U32.unpack_from(key, 4)[0])


def port_bytes(port: int) -> bytes:
    """A port in network order."""
    return port.to_bytes(2, "big")


def bib4_key(address: IPv4Address, port: int, protocol: int) -> bytes:
    """A key of bib4."""
    return BIB4_KEY.pack(address.packed, port_bytes(port), protocol)


def bib6_key(client: IPv6Address, port: int, protocol: int, zone: int) -> bytes:
    """A key of bib6."""
    return BIB6_KEY.pack(client.packed, port_bytes(port), protocol, zone)


def bib6(address: bytes, port: bytes) -> bytes:
    """A value of bib6, of a binding that remembers nothing yet."""
    return BIB6.pack(address, port, bytes(2), bytes(4), 0)


def session_key(
    pool: IPv4Address, pool_port: int, remote: IPv4Address, remote_port: int, protocol: int
) -> bytes:
    """A key of sessions."""
    ports = port_bytes(pool_port), port_bytes(remote_port)
    return SESSION_KEY.pack(pool.packed, remote.packed, *ports, protocol)
