/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps that the agent writes and packets read: the config and what belongs to it. See abi.h. */
#pragma once

#include "abi_types.h"

/* The timers of RFC 6146 section 4. config.timeout has one entry for each. */
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
	CONFIG_PODS_KNOWN = 1 << 6,	/* allow only listed sources and the pods' ranges */
	CONFIG_MANY_OUTSIDE = 1 << 7,	/* more links than config.outside holds: see `uplinks` */
	CONFIG_PORT_DEPENDENT = 1 << 8, /* filter by remote address and port: exact sessions only */
	CONFIG_ZONES = 1 << 9,		/* there are several */
	CONFIG_CLAT = 1 << 10,		/* there is a CLAT prefix */
};

#define CONFIG_SLOTS	2
#define MAX_POOL_RANGES 4096
#define MAX_UPLINKS	256
#define MAX_POD_LINKS	4096
#define OUTSIDE_LINKS	4
#define MAX_ZONES	16 /* a power of two */
#define MAX_MARKS	4
#define MANY_LINKS	0xffffffffU

/* The pool of one way out (see zones.h). */
struct zone {
	__u32 first, ranges; /* in `pool`; no ranges: there is no such zone */
	__u32 ports;	     /* in these, for each protocol */
	__u32 link;	     /* by which it leaves, or MANY_LINKS; 0: by uplinks only */
};

/* A packet mark that a policy rule asks for. */
struct mark {
	__u32 value, mask;
};

/* One complete configuration. Packets read the slot that control.active names. */
struct config {
	__u64 prefix_high, prefix_low; /* Pref64, machine order */
	__u64 mask_high, mask_low;
	__u64 clat_high, clat_low; /* the prefix of the pods' CLAT, a /96 */
	__u32 prefix_shift;	   /* 96 - prefix length: where RFC 6052 puts the IPv4 address */
	__u32 flags;
	__u32 zone;		    /* an index of `zones`: of the way to the rest of the world */
	__u32 interface;	    /* nat64-NAME */
	__u32 inbound_sessions;	    /* limit of those opened from IPv4 */
	__u32 timeout[TIMER_SLOTS]; /* seconds */
	__u32 lowest_ipv6_mtu;
	__u32 ports_per_client;		 /* 0: no limit */
	__u32 session_rate_per_client;	 /* new ones a second; 0: no limit */
	__u32 sessions_per_client;	 /* open ones that the client has opened; 0: no limit */
	__u32 marks_used;		 /* of `marks` */
	__u16 epoch;			 /* sessions opened under another one are checked again */
	__u16 lowest_port, highest_port; /* of all pools and static mappings, machine order */
	__u8 mac[6];			 /* of nat64-NAME */
	__u32 outside[OUTSIDE_LINKS];	 /* ifindex of the first links with UPLINK_EXTERNAL, or 0 */
	__u32 closed_places;		 /* of the queue `closed` */
	__u32 route_mtu;		 /* of the route to Pref64 */
	__u32 pad;
	struct zone zones[MAX_ZONES];
	struct mark marks[MAX_MARKS];
	char hash[16]; /* of the config file: tells which config is active */
};

struct control {
	__u32 active;	    /* config slot */
	__u32 routes;	    /* number of route changes that the agent has heard of */
	__u64 clock_offset; /* nanoseconds added to the clock: tests move the time by it */
};

/* A range of ports on one IPv4 address. */
struct pool_range {
	__be32 address;
	__u16 first, last; /* machine order */
	__u32 whole;	   /* 1: no static mapping has one of these ports */
};

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
	DESTINATION_NOT_GLOBAL, /* under the well-known prefix (RFC 6052 section 3.1) only */
	DESTINATION_SPECIAL,	/* loopback, link-local, multicast, reserved */
	DESTINATION_LOCAL,	/* an address of the node */
};

struct destination {
	__u8 verdict;
	__u8 pool;  /* one of our pool addresses: hairpins */
	__u8 named; /* by allowedDestinations: no route lookup */
	__u8 pad;
};

#define UPLINK_ETHERNET (1 << 0)
#define UPLINK_EXTERNAL (1 << 1) /* sources behind it are strangers */
#define UPLINK_LAN	(1 << 2) /* only its own subnets are behind it */

/* Also for links that are no uplinks; of their flags, only UPLINK_EXTERNAL has a meaning. */
struct uplink {
	__u32 flags;
	__u32 mtu;
	__u32 zone; /* of the address that the node itself uses there */
};

/* Addresses whose ARP requests the program answers. */
#define MAX_ARP_ANSWERS 65536

struct arp_key {
	__be32 address;
	__u32 ifindex;
};

struct arp_answer {
	__u8 mac[6]; /* of the link */
	__u16 pad;
};
