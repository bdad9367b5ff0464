/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The Gateway topology: the maps, and who the other nodes are. */
#pragma once

#include "abi_topology.h"
#include "context.h"

/* Beside the flags in `sources`: the source is behind a router node. */
#define SOURCE_OF_PEER (1U << 31)

MAP(BPF_MAP_TYPE_ARRAY, topology, __u32, struct topology, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, serving, __u32, struct serving, 1, 0);
MAP(BPF_MAP_TYPE_LPM_TRIE, peers, struct peer_key, struct peer, MAX_PEERS, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_ARRAY, steering, __u32, struct steering, STEERING_SLOTS, 0);
/* Losing an entry may give a client another gateway, which ends its connections. So there are far
 * more entries than a node has pods. */
MAP(BPF_MAP_TYPE_LRU_HASH, affinities, union addr6, struct affinity, MAX_AFFINITIES, 0);

static __always_inline struct topology *topology_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&topology, &zero);
}

/* The node that an address is behind, or is of; NULL if it is no node of the other role. */
static __always_inline struct peer *peer_of(const union addr6 *address)
{
	struct peer_key key = {.prefix_length = 128};

	__builtin_memcpy(key.address, address, sizeof(key.address));
	return bpf_map_lookup_elem(&peers, &key);
}

static __always_inline bool is_member(const union addr6 *node)
{
	struct peer *peer = peer_of(node);

	return peer && addr6_equal(&peer->node, node);
}

/* Whether the packet has come through the tunnel, where nat64_decap has checked whose it is. */
static __always_inline bool came_through_tunnel(const struct __sk_buff *skb,
						const struct topology *here)
{
	return here->tunnel && skb->ingress_ifindex == here->tunnel;
}

/* Whether packets of that node's pods may come without the tunnel, by this link. If this gateway
 * node uses the tunnel itself, then only while the node doesn't: its own probes have shown that,
 * and by which link. So neither end has to change its transport first. */
static __always_inline bool may_come_directly(const struct __sk_buff *skb,
					      const struct topology *here,
					      const union addr6 *router)
{
	struct peer *node;

	if (here->direct)
		return true; /* check_way_back asks for the link */
	node = peer_of(router);
	return node && node->link == skb->ingress_ifindex &&
	       now_seconds() - node->second <= SERVING_SECONDS;
}

/* What a source has a right to because of the node that it is behind: flags as in `sources`.
 * Without the tunnel, the link is trusted to bring each node's packets from that node. */
static __always_inline __u32 rights_by_peer(struct __sk_buff *skb, const struct packet *p)
{
	const __u32 rights = SOURCE_ALLOWED | SOURCE_POD | SOURCE_OF_PEER;
	struct topology *here = topology_here();
	struct peer *owner;

	if (!here || here->role != ROLE_GATEWAY)
		return 0;
	if (came_through_tunnel(skb, here))
		return rights;
	owner = peer_of(&p->client);
	return owner && may_come_directly(skb, here, &owner->node) ? rights : 0;
}
