/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps of the Gateway topology: who the other nodes are, and which gateway node serves a client.
 * See abi.h. */
#pragma once

#include "abi_types.h"

enum role {
	ROLE_NODE,    /* translates for its own pods: the rest of this file means nothing */
	ROLE_GATEWAY, /* translates for router nodes too */
	ROLE_ROUTER,  /* steers to gateway nodes */
};

struct topology {
	union addr6 node; /* this node's address: the outer source in the tunnel */
	__u32 role;
	__u32 tunnel; /* ifindex of the VXLAN device; 0: there is none */
	__u32 vni;
	__u32 active;  /* slot of `steering` */
	__u32 direct;  /* 1: what this node sends goes without the tunnel */
	__u32 offload; /* 1: packets of known flows go on where they leave the tunnel */
};

/* The nodes of the other role, and behind which of them an address is: by prefix. */
#define MAX_PEERS 131072

struct peer_key {
	__u32 prefix_length;
	__be32 address[4];
};

struct peer {
	union addr6 node;
	/* Of a router node's own address: its last probe without the tunnel. */
	__u32 link;
	__u32 second;
};

#define STEERING_SLOTS	2
#define MAX_GATEWAYS	64   /* a power of two */
#define STEERING_PLACES 4096 /* a power of two */
#define NO_GATEWAY	0xff
#define MAX_AFFINITIES	16384
#define AFFINITY_WRITES 16 /* seconds between two writes of one entry */

enum gateway_state {
	GATEWAY_DEAD, /* gets nothing but probes */
	GATEWAY_HEALTHY,
	GATEWAY_DRAINING, /* keeps its clients, and gets no new ones */
};

struct gateway {
	union addr6 address;
	__u32 state;
	__u32 identity; /* a hash of the address; 0: there is none */
};

/* The number of a gateway is its index. One slot has everything that a decision needs, so that a
 * change is atomic. */
struct steering {
	struct gateway gateways[MAX_GATEWAYS];
	__u8 table[STEERING_PLACES]; /* by hash of the client: a number, or NO_GATEWAY */
};

/* The gateway that a client has been given. */
struct affinity {
	__u32 identity; /* of the gateway */
	__u32 second;	/* of its last packet, to within AFFINITY_WRITES */
	__u8 gateway;	/* its number */
	__u8 pad[3];
};

/* What the agent of a gateway node says about it, and when. */
#define SERVING_SECONDS 300 /* for so long it is believed, and a probe without the tunnel */
struct serving {
	__u32 second;
	__u32 state; /* enum probe_state */
};

/* In an answer to a probe. */
enum probe_state {
	PROBE_QUESTION,
	PROBE_SERVING,
	PROBE_DRAINING,
	PROBE_NOT_SERVING,
};
