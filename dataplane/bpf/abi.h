/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs and translator/datapath/abi.py must agree on: map keys and values.
 *
 * Raise NAT64_ABI when the meaning of any of it changes; a changed size is noticed without that.
 * Addresses and ports are in network order; everything else is in the machine's.
 */
#pragma once

#include <linux/types.h>

#define NAT64_ABI 6

union addr6 {
	__u8 bytes[16];
	__be32 words[4];
	__be64 halves[2];
};

enum direction { DIR_6TO4, DIR_4TO6, DIR_COUNT };

/* RFC 6146 section 4; config.timeout is indexed by these. */
enum timer {
	TIMER_UDP,
	TIMER_ICMP,
	TIMER_TCP_ESTABLISHED,
	TIMER_TCP_TRANSITORY,
	TIMER_TCP_INCOMING_SYN,
	TIMER_FRAGMENT,
	TIMER_COUNT,
	TIMER_SLOTS = 8, /* a power of two, for the verifier */
};

enum config_flag {
	CONFIG_ADDRESS_DEPENDENT = 1 << 0, /* filter by remote address (RFC 6146 section 3.5.2) */
	CONFIG_OVERLOAD_TCP = 1 << 1,	   /* share TCP ports between remotes when out of ports */
	CONFIG_COPY_TRAFFIC_CLASS = 1 << 2,
	CONFIG_SOURCES_LISTED = 1 << 3, /* only listed sources; else all but those behind uplinks */
	CONFIG_RAW_UPLINKS = 1 << 4,	/* some uplink has no Ethernet header */
	CONFIG_CLAMP_MSS = 1 << 5,	/* see mss.h */
	CONFIG_PODS_KNOWN = 1 << 6,	/* only listed sources and the pods' ranges */
	CONFIG_MANY_OUTSIDE = 1 << 7,	/* more links than config.outside holds: see `uplinks` */
	CONFIG_PORT_DEPENDENT = 1 << 8, /* filter by remote address and port: exact sessions only */
};

#define CONFIG_SLOTS	2
#define MAX_POOL_RANGES 4096
#define MAX_UPLINKS	256
#define MAX_POD_LINKS	4096
#define OUTSIDE_LINKS	4

/* One whole configuration. Packets read the slot that control.active names. */
struct config {
	__u64 prefix_high, prefix_low; /* Pref64, machine order */
	__u64 mask_high, mask_low;
	__u32 prefix_shift; /* 96 - prefix length: where RFC 6052 puts the IPv4 address */
	__u32 flags;
	__u32 pool_ranges;
	__u32 interface;	    /* nat64-NAME */
	__u32 inbound_sessions;	    /* how many may have been opened from IPv4 */
	__u32 timeout[TIMER_SLOTS]; /* seconds */
	__u32 lowest_ipv6_mtu;
	__u32 ports_per_client;		 /* 0: no limit */
	__u32 session_rate_per_client;	 /* new ones a second; 0: no limit */
	__u32 sessions_per_client;	 /* open ones that the client began; 0: no limit */
	__u32 pool_ports;		 /* in all pools, for each protocol */
	__u16 epoch;			 /* sessions opened under another one are checked again */
	__u16 lowest_port, highest_port; /* of all pools and static mappings, machine order */
	__u8 mac[6];			 /* of nat64-NAME */
	__u32 outside[OUTSIDE_LINKS];	 /* ifindex of the first links with UPLINK_EXTERNAL, or 0 */
	__u32 pad;
	char hash[16]; /* of the config file, for whoever asks what runs */
};

struct control {
	__u32 active;	    /* config slot */
	__u32 routes;	    /* changes of routes that the agent has heard of */
	__u64 clock_offset; /* nanoseconds added to the clock: tests travel in time with it */
};

/* A range of ports on one IPv4 address. */
struct pool_range {
	__be32 address;
	__u16 first, last; /* machine order */
};

/* Bitmaps of an address's ports: where to look for a free one. The claim itself is the insertion
 * into bib4, so a taken bit that is wrong costs a try or a port, never correctness. */
#define PORTS_PER_BLOCK 4096
#define MAX_PORT_BLOCKS 32768
#define PORT_WORDS	(PORTS_PER_BLOCK / 64)

enum port_bits {
	PORTS_TAKEN,  /* per protocol */
	PORTS_USABLE, /* protocol 0: in a pool of config slot 0; the next one: of slot 1 */
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
 * query identifier. bib4 is the one that counts: who inserts there owns the port. */
struct bib6_key {
	union addr6 client;
	__be16 client_port;
	__u8 protocol;
	__u8 pad;
	__u32 pad2; /* the union aligns this to 8 bytes: no byte of a key may be left over */
};

/* With what recent.h notes, which is all 0 at first. */
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

/* What of a binding changes together: one word, moved by compare-and-swap. */
union binding_life {
	struct {
		__u32 expires;	/* second; no session of it lives longer. 0: being removed */
		__u32 sessions; /* that use it and are in the table */
	};
	__u64 word;
};

#define BIB_STATIC (1 << 0) /* configured: never expires */

struct bib4 {
	union addr6 client;
	__be16 client_port;
	__u16 flags;
	__u32 generation;
	union binding_life life;
	__u32 created; /* second */
	__u32 needed;  /* second: the latest `expires` of its sessions, as a sweep has seen them */
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
#define SESSION_PENDING	  (1 << 4) /* filtered SYN from IPv4: counts once the client sends one */
#define SESSION_INBOUND	  (1 << 5) /* opened from IPv4 */
#define SESSION_OUTSIDE	  (1 << 6) /* the client may send by way of an uplink */

/* What of a session changes together, likewise: packets of both directions move it on several CPUs
 * at once, and neither a FIN nor the timer that goes with it may be lost. */
union session_life {
	struct {
		__u32 expires; /* second; 0: being removed */
		__u8 state;    /* enum tcp_state, and TCP_SHUT */
		__u8 pad[3];
	};
	__u64 word;
};

struct session {
	union addr6 client;
	__be16 client_port;
	__u8 flags;
	__u8 pad;
	__u32 generation;
	union session_life life;
	__u16 epoch;
	__u16 pad2;
	__u32 created; /* second */
};

/* A session whose two ends are done with it. The queue of these tells whose port has rested longest
 * when one is needed. An entry may be out of date. */
struct closed_session {
	struct session_key key;
	__u32 generation;
	__u32 second; /* in which it was closed */
};

/* What a client of CONFIG_OVERLOAD_TCP uses towards one remote, once ports have run out. */
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

/* Policy tries: the config slot comes first in the data, so that a switch is atomic. */
struct source_key {
	__u32 prefix_length; /* 32 + that of the address */
	__u32 slot;
	union addr6 address;
};

#define SOURCE_ALLOWED (1 << 0) /* by allowedSources */
#define SOURCE_POD     (1 << 1) /* in a range of the cluster's pods */

struct destination_key {
	__u32 prefix_length;
	__u32 slot;
	__be32 address;
};

enum destination_verdict {
	DESTINATION_ALLOWED,
	DESTINATION_DENIED,	/* by the config */
	DESTINATION_NOT_GLOBAL, /* under the well-known prefix (RFC 6052 section 3.1) */
	DESTINATION_SPECIAL,	/* loopback, link-local, multicast, reserved */
	DESTINATION_LOCAL,	/* an address of the node */
};

struct destination {
	__u8 verdict;
	__u8 pool;  /* one of our pool addresses: hairpins */
	__u8 named; /* by allowedDestinations: the node's routes aren't asked */
	__u8 pad;
};

#define UPLINK_ETHERNET (1 << 0)
#define UPLINK_EXTERNAL (1 << 1) /* sources behind it are strangers */

/* Also of links that are no way out, where UPLINK_EXTERNAL is all there is to know. */
struct uplink {
	__u32 flags;
	__u32 mtu;
};

/* ARP requests that are answered here. */
#define MAX_ARP_ANSWERS 65536

struct arp_key {
	__be32 address;
	__u32 ifindex;
};

struct arp_answer {
	__u8 mac[6]; /* of the link */
	__u16 pad;
};

/* Fragments: what the first one told about the rest (RFC 6146 section 3.4). */
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
	__u32 released; /* those held for it have been sent round */
	__be16 client_port;
	__u16 identification; /* that it has in IPv6; from IPv4 only */
	__u8 fate;
	__u8 hairpin;
	__u8 outside; /* the others may come from there too: PACKET_FROM_OUTSIDE of the first */
	__u8 pad[5];
};

/* Fragments that came before the first one, kept until it does. Long ones take several entries, so
 * that the common ones take little memory: the kernel allots the same to each. */
#define HELD_PER_PACKET 8
#define HELD_PARTS	6
#define HELD_BYTES	1500

struct held_key {
	struct fragment_key packet;
	__u32 index;
	__u32 part;
};

struct held {
	__u32 expires; /* in part 0; 0: not all parts are there, or somebody takes it away */
	__u32 length;  /* of all parts */
	__u8 direction;
	__u8 pad[3];
	__u8 bytes[HELD_BYTES]; /* part 0 begins with the IP header */
};

/* What one run of nat64_sweep looks through: a chunk of one table, or a table that is small. */
enum sweep_table {
	SWEEP_BINDINGS,
	SWEEP_SESSIONS,
	SWEEP_BIB6,
	SWEEP_OVERLOADS,
	SWEEP_CLIENTS,
	SWEEP_FRAGMENTS,
	SWEEP_HELD,
	SWEEP_END, /* no table: all sessions have been counted */
};

enum sweep_how {
	SWEEP_PURGE = 1 << 0,  /* also take what the active config no longer allows */
	SWEEP_FOLLOW = 1 << 1, /* the sweep before this one has noted what all bindings need */
};

/* A run holds its CPU's packets back, so it looks at few entries, whatever a table's size: at one
 * chunk of keys, or through a small table until it has removed SWEEP_MOST entries. The longest key
 * of the tables that are swept by chunks has SWEEP_KEY_BYTES.
 */
#define SWEEP_CHUNK	256
#define SWEEP_MOST	256
#define SWEEP_KEY_BYTES 24

struct sweep_keys {
	__u8 bytes[SWEEP_CHUNK * SWEEP_KEY_BYTES];
};

/* Input of the runs of one sweep, and what they have done so far. */
struct sweep {
	__u32 table;   /* in: enum sweep_table */
	__u32 how;     /* in: enum sweep_how */
	__u32 keys;    /* in: how many there are in sweep_keys */
	__u32 hold;    /* in: seconds that a port rests before another client may have it */
	__u32 noted;   /* kept by the agent: the last sweep came to its end */
	__u32 inbound; /* out: sessions opened from IPv4 */
	__u64 sessions, bindings, fragments, held; /* out: left, of what it looked through */
	__u64 removed_sessions, removed_bindings, removed_fragments, removed_held;
};
