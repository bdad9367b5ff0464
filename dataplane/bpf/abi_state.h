/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps that packets write: bindings, sessions, clients, fragments. See abi.h. */
#pragma once

#include "abi_types.h"

/* Bitmaps of an address's ports, for the search for a free one. The claim itself is the insertion
 * into bib4, so a wrong bit costs a try or a port, never correctness. */
#define PORTS_PER_BLOCK 4096
#define MAX_PORT_BLOCKS 32768
#define PORT_WORDS	(PORTS_PER_BLOCK / 64)

enum port_bits {
	PORTS_TAKEN,  /* per protocol */
	PORTS_USABLE, /* protocol 0: in a pool of config slot 0; the next kind: of slot 1 */
};

struct port_block_key {
	__be32 address;
	__u8 kind;
	__u8 protocol;
	__u8 block; /* port / PORTS_PER_BLOCK */
	__u8 pad;
};

struct port_block {
	__u64 bits[PORT_WORDS];
};

/* Binding information bases (RFC 6146 section 3.1). `protocol` is 6, 17 or 1; ICMP's port is the
 * query identifier. bib4 is authoritative: the CPU that inserts there owns the port. */
struct bib6_key {
	union addr6 client;
	__be16 client_port;
	__u8 protocol;
	__u8 zone;
	__u32 pad; /* the union aligns this to 8 bytes, and a key must have no unnamed bytes */
};

/* `recent`, `recent_port` and `stamp` are the cache of recent.h, all 0 at first. */
struct bib6 {
	__be32 pool;
	__be16 pool_port;
	__be16 recent_port;
	__be32 recent;
	__u32 stamp;
};

struct bib4_key {
	__be32 pool;
	__be16 pool_port;
	__u8 protocol;
	__u8 pad;
};

/* The fields of a binding that change together: one word, written by compare-and-swap. */
union binding_life {
	struct {
		__u32 expires;	/* second; no session of the binding lives longer. 0: being removed
				 */
		__u32 sessions; /* that use it and are in the table */
	};
	__u64 word;
};

#define BIB_STATIC (1 << 0) /* configured: never expires */
#define BIB_CLAT   (1 << 7) /* its last session was opened by the CLAT prefix */

struct bib4 {
	union addr6 client;
	__be16 client_port;
	__u8 flags;
	__u8 zone;
	__u32 generation;
	union binding_life life;
	__u32 created; /* second */
	__u32 needed;  /* second: until when sessions have asked for it since a sweep looked */
};

struct session_key {
	__be32 pool, remote;
	__be16 pool_port, remote_port; /* ICMP: identifier, 0 */
	__u8 protocol;
	__u8 pad[3];
};

#define SESSION_CONFIRMED (1 << 0) /* the IPv6 side has sent something */
#define SESSION_HAIRPIN	  (1 << 1) /* the remote is one of our own mappings */
#define SESSION_OVERLOAD  (1 << 2) /* has no BIB entry: shares its port, see `overloads` */
#define SESSION_CONTACT	  (1 << 3) /* remote_port 0: the client has talked to this address */
#define SESSION_PENDING	  (1 << 4) /* filtered SYN from IPv4: valid once the client sends one */
#define SESSION_INBOUND	  (1 << 5) /* opened from IPv4 */
#define SESSION_OUTSIDE	  (1 << 6) /* the client may send through an uplink */
#define SESSION_CLAT	  (1 << 7) /* the client uses the CLAT prefix for this remote */

/* The fields of a session that change together, likewise: packets of both directions update it on
 * several CPUs at once, and neither a FIN nor its timer may be lost. */
union session_life {
	struct {
		__u32 expires; /* second; 0: being removed */
		__u8 state;    /* enum tcp_state, and TCP_SHUT */
		__u8 pad;
		__u16 segment; /* the longest one, as its SYN found it (see mss.h); 0: unknown */
	};
	__u64 word;
};

struct session {
	union addr6 client;
	__be16 client_port;
	__u8 flags;
	__u8 zone;
	__u32 generation;
	union session_life life;
	__u16 epoch;
	__u8 queued; /* 1: has a place in the queue `closed` */
	__u8 pad2;
	__u32 created; /* second */
};

/* A session that both ends have finished with. The queue of these tells which port has rested
 * longest when one is needed. An entry may be out of date. */
struct closed_session {
	struct session_key key;
	__u32 generation;
	__u32 second; /* in which it was closed */
};

/* The port that a client has borrowed towards one remote end (CONFIG_OVERLOAD_TCP). */
struct overload_key {
	union addr6 client;
	__be32 remote;
	__be16 client_port, remote_port;
};

struct overload {
	__be32 pool;
	__be16 pool_port;
	__u16 pad;
};

/* TCP, UDP and ICMP as an index. */
enum protocol_index { INDEX_TCP, INDEX_UDP, INDEX_ICMP, PROTOCOL_COUNT };

/* Per-client limits (RFC 6888). */
struct client {
	__u64 holds;		     /* sessions, and in the upper half BIB entries */
	__u32 ports[PROTOCOL_COUNT]; /* BIB entries, of each protocol */
	__u32 closed;		     /* sessions at rest whose BIB entry is this client's */
	__u32 tokens;		     /* new sessions still allowed in `second` */
	__u32 inbound_tokens;	     /* likewise of those opened from IPv4 */
	__u32 second;
	__u32 pad;
};

#define HOLDS_SESSION 1ULL
#define HOLDS_PORT    (1ULL << 32)
#define HOLDS_REMOVED (1ULL << 63) /* the entry is being removed: count nothing here */

/* What the first fragment of a packet led to, for the others (RFC 6146 section 3.4). */
struct fragment_key {
	union addr6 source, destination; /* an IPv4 address is in the last word, the rest 0 */
	__u32 identification;
	__u8 protocol;
	__u8 direction;
	__u16 pad;
};

enum fragment_fate { FRAGMENT_UNKNOWN, FRAGMENT_TRANSLATE, FRAGMENT_PASS, FRAGMENT_DROP };

struct fragment {
	union addr6 client;
	__be32 pool;
	__u32 expires;
	__u32 released; /* 1: those held for it have been sent through the program again */
	__be16 client_port;
	__u16 identification; /* for the IPv6 Fragment header; from IPv4 only */
	__u8 fate;
	__u8 hairpin;
	__u8 outside; /* PACKET_FROM_OUTSIDE of the first: the others may come from there too */
	__u8 refragmented; /* 1: one has gone to the fragmenter, and those after it go there too */
	__u8 clat;	   /* SESSION_CLAT of the first */
	__u8 pad[3];
};

/* Fragments that arrived before the first one, held until it arrives. Long ones take several
 * entries, so that common ones take little memory: the kernel allocates the same for each. */
#define HELD_PER_PACKET 8
#define HELD_PARTS	6
#define HELD_BYTES	1500

struct held_key {
	struct fragment_key packet;
	__u32 index;
	__u32 part;
};

struct held {
	__u32 expires; /* in part 0; 0: parts are missing yet, or it is being removed */
	__u32 length;  /* of all parts */
	__u8 direction;
	__u8 pad[3];
	__u8 bytes[HELD_BYTES]; /* part 0 begins with the IP header */
};
