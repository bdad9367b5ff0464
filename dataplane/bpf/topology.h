/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The Gateway topology: the maps, and who the other nodes are. */
#pragma once

#include "abi_topology.h"
#include "context.h"

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

/* What a source has a right to because of the node that it is behind: flags as in `sources`. In the
 * tunnel, nat64_decap has checked whose source it is. With Direct, the link is trusted to bring
 * each node's packets from that node. */
static __always_inline __u32 rights_by_peer(struct __sk_buff *skb, const struct packet *p)
{
	struct topology *here = topology_here();

	if (!here || here->role != ROLE_GATEWAY)
		return 0;
	if (here->tunnel)
		return skb->ingress_ifindex == here->tunnel ? SOURCE_POD : 0;
	return peer_of(&p->client) ? SOURCE_ALLOWED | SOURCE_POD : 0;
}
