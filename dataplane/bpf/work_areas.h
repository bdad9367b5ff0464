/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Per-CPU memory for data that is too large for the stack of 512 bytes, or that lives longer than a
 * packet. No run of a program interrupts another one on the same CPU. */
#pragma once

#include "packet.h"

/* Bytes of a packet while they are summed or moved. */
#define SCRATCH_BYTES 512
struct scratch {
	__u8 bytes[SCRATCH_BYTES];
};

/* What an earlier packet of a flow found: see flows.h. */
#define FLOW_SLOT_BITS	9
#define FLOW_SLOTS	(1 << FLOW_SLOT_BITS)
#define MOVES_SLOT_BITS 8
#define MOVES_SLOTS	(1 << MOVES_SLOT_BITS)
struct flow {
	union addr6 client;
	__be32 pool, remote;
	__be16 client_port, pool_port, remote_port;
	__u8 protocol, direction;
	__u8 traffic_class, session_flags;
	__u16 epoch; /* of the config */
	__u32 steady;
	__u32 routes, moves;
	__u32 second;
	__u32 mtu; /* of the route */
	__u32 ifindex;
	__u32 ingress;		 /* ifindex of the link that it comes from, or 0: see offload.h */
	__u32 straight;		 /* whether it goes straight: into its pod, or out by its link */
	__u8 link[2 * ETH_ALEN]; /* its Ethernet addresses then: to, from */
	struct bpf_redir_neigh hop;
};

/* When the clock was read last: see seconds_by_tick(). */
struct tick {
	__u64 jiffies, clock_offset;
	__u32 second;
	__u32 pad;
};

/* A client that was found where its packets come from: see sources.h. */
#define WAY_BACK_SLOT_BITS 7
#define WAY_BACK_SLOTS	   (1 << WAY_BACK_SLOT_BITS)
struct way_back {
	union addr6 client;
	__u32 ingress; /* ifindex of the link that they come from */
	__u32 second, routes;
	__u16 epoch; /* of the config */
	__u16 mtu;   /* of the route to the client */
};

/* The way of a flow to its gateway node: see steer_offload.h. */
#define STEERED_FLOW_SLOT_BITS 9
#define STEERED_FLOW_SLOTS     (1 << STEERED_FLOW_SLOT_BITS)
struct steered_flow {
	union addr6 client, remote, gateway;
	__be16 client_port, remote_port;
	__u8 protocol, traffic_class;
	__u16 epoch; /* of the config */
	__u32 second, routes;
	__u32 ingress; /* ifindex of the link that it comes from */
	__u32 ifindex; /* by which it leaves */
	__u32 direct;  /* 1: to the gateway itself; 0: into the tunnel */
};

/* The way of replies to a pod of a router node: see return.h. */
#define RETURN_WAY_SLOT_BITS 7
#define RETURN_WAY_SLOTS     (1 << RETURN_WAY_SLOT_BITS)
struct return_way {
	union addr6 client, remote, hop;
	__u32 second, routes;
	__u16 epoch; /* of the config */
	__u16 mtu;   /* of the route */
	__u32 ifindex;
	__u32 straight; /* as in struct flow */
	__u8 link[2 * ETH_ALEN];
};

/* The way that new connections to one remote end take: see zones.h. */
#define WAY_OUT_SLOT_BITS 7
#define WAY_OUT_SLOTS	  (1 << WAY_OUT_SLOT_BITS)
struct way_out {
	__be32 remote;
	__be16 remote_port;
	__u8 protocol, traffic_class;
	__u32 second, routes;
	__u16 epoch; /* of the config */
	__u8 zone;
	__u8 pad;
};

/* The route to a pod by its own link, for what one port of a remote end sends: see pod_routes.h. */
#define POD_ROUTE_SLOT_BITS 7
#define POD_ROUTE_SLOTS	    (1 << POD_ROUTE_SLOT_BITS)
struct pod_route {
	union addr6 client, hop;
	__be32 remote;
	__be16 remote_port;
	__u8 protocol;
	__u8 clat; /* SESSION_CLAT: from which prefix the pod is sent to */
	__u32 second, routes;
	__u16 epoch; /* of the config */
	__u16 mtu;   /* of the route */
	__u32 ifindex;
	__u32 straight; /* as in struct flow */
	__u8 link[2 * ETH_ALEN];
};

/* What an ICMP error becomes: see icmp_tables.h. */
struct icmp_meaning {
	__u8 type, code;
	__u8 rest;
	__u8 known; /* 0 where the table has no entry */
};

#define ICMP_HEADER 8

/* One ICMP error while it is translated. */
struct error_work {
	struct packet inner;
	struct icmp_meaning meaning;
	__u8 icmp[ICMP_HEADER]; /* before, then after translation */
	__u8 transport[8];	/* of the inner packet, likewise */
	__be16 tcp_checksum;	/* likewise; valid if has_tcp_checksum */
	__u16 has_tcp_checksum;
	__u32 payload_at, payload; /* inner payload and all that follows: offset, length */
	__u32 inner_header;	   /* length of the inner IP header, before translation */
	__u32 extended;		/* length of the inner part in front of RFC 4884 extensions, or 0 */
	__u64 old_sum, new_sum; /* of what is removed and what is added */
	__u8 headers[104];	/* outer IP, ICMP, inner IP: what is added */
};

/* The search for a port: where it is, and what it has seen. */
struct search {
	__u32 slot, ranges;	      /* of the config */
	__u32 first_range;	      /* of the zone */
	__u32 range_at, ranges_tried; /* the pool range it is in */
	__u32 start;		      /* port to begin with; its block is the first one */
	__u32 first, last, whole;     /* of the range */
	__u32 first_block, blocks;    /* likewise */
	__u32 block, blocks_tried;
	__u32 sockets; /* ports met that a socket of the node uses */
	__u32 expires, now;
	__be32 address;
	struct bpf_sock_tuple ends; /* of the socket that is asked for */
};

/* A binding that is being made, as both tables name it. */
struct claim {
	struct bib6_key from_ipv6;
	struct bib6 way;
	struct bib4_key name;
	__u32 generation;
};

/* The binding and the session that a packet is about to open. */
struct open_work {
	struct search search;
	struct claim claim;
	struct bib6_key owner; /* of a binding that is being removed */
	struct bib4 binding;
	struct session session;
};

/* How many errors of its own the program may still send on this CPU: see respond.h. */
struct error_budget {
	__u32 second, left;
};
