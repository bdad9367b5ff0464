/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which IPv6 sources are believed. Anybody on a link can write any source address into a packet, so
 * the address must be one that the node itself would reach by that link. */
#pragma once

#include "route.h"
#include "topology.h"

/* Whether strangers are behind a link. Each packet asks this, so the first few links are in the
 * config. */
static __always_inline bool is_outside(const struct config *config, __u32 ifindex)
{
	struct uplink *link;
	int i;

#pragma unroll
	for (i = 0; i < OUTSIDE_LINKS; i++)
		if (config->outside[i] == ifindex)
			return true;
	if (!(config->flags & CONFIG_MANY_OUTSIDE))
		return false;
	link = bpf_map_lookup_elem(&uplinks, &ifindex);
	return link && link->flags & UPLINK_EXTERNAL;
}

/* Note whether a packet from the IPv6 side came in on such a link. A packet that the node itself
 * sends has come in on none. */
static __always_inline void note_where_from(struct __sk_buff *skb, const struct config *config,
					    struct packet *p)
{
	if (skb->ingress_ifindex && is_outside(config, skb->ingress_ifindex))
		p->flags |= PACKET_FROM_OUTSIDE;
}

/* Whether a packet of a router node's pod has come in where it should, if that is the way back to
 * the pod. While the two nodes have different transports, it is another link. */
static __always_inline bool is_way_of_peer(struct __sk_buff *skb, const struct packet *p,
					   const struct bpf_fib_lookup *back)
{
	struct topology *here = topology_here();
	struct peer *owner;
	union addr6 hop;

	if (!here)
		return false;
	if (back->ifindex == skb->ingress_ifindex || back->ifindex == here->tunnel)
		return true; /* rights_by_peer has checked who may come without the tunnel */
	__builtin_memcpy(&hop, back->ipv6_dst, sizeof(hop));
	owner = peer_of(&p->client);
	return owner && came_through_tunnel(skb, here) && addr6_equal(&owner->node, &hop);
}

/* Ask the kernel for the route back to the client. A forged source has no route, is one of the
 * node's own addresses, or is behind another link. `listed` is what the config says about the
 * source. */
static __always_inline enum verdict
check_way_back(struct __sk_buff *skb, const struct config *config, struct packet *p, __u32 listed)
{
	bool from_outside = p->flags & PACKET_FROM_OUTSIDE;
	__u32 ifindex;
	struct bpf_fib_lookup route = {
		.family = AF_INET6,
		.ifindex = config->interface,
		.tot_len = 1, /* with a length, the kernel tells the MTU */
	};

	__builtin_memcpy(route.ipv6_src, &p->remote6, sizeof(p->remote6));
	__builtin_memcpy(route.ipv6_dst, &p->client, sizeof(p->client));
	switch (bpf_fib_lookup(skb, &route, sizeof(route), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		p->mtu6 = route.mtu_result;
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		break;
	case BPF_FIB_LKUP_RET_NOT_FWDED: /* no route, or the node's own address */
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return STOP_dropped_source_without_route;
	case BPF_FIB_LKUP_RET_UNSUPP_LWT: /* into a tunnel, so to another node */
		return listed & SOURCE_ALLOWED ? GO_ON : STOP_dropped_source_behind_uplink;
	default:
		return GO_ON; /* the kernel doesn't know: IPv6 forwarding is off */
	}
	ifindex = route.ifindex;
	if (listed & SOURCE_OF_PEER)
		return is_way_of_peer(skb, p, &route) ? GO_ON : STOP_dropped_source_wrong_link;
	if (bpf_map_lookup_elem(&pod_links, &ifindex))
		return ifindex == skb->ingress_ifindex ? GO_ON : STOP_dropped_source_wrong_link;
	if (!(listed & SOURCE_ALLOWED) && (from_outside || is_outside(config, ifindex)))
		return STOP_dropped_source_behind_uplink;
	return GO_ON;
}

/* The note of a client that was found where its packets come from. */
static __always_inline struct way_back *way_back_of(const struct packet *p)
{
	__u32 mixed = p->client.words[1] ^ p->client.words[2] ^ p->client.words[3];
	__u32 slot = (mixed * 0x9e3779b1) >> (32 - WAY_BACK_SLOT_BITS);

	return bpf_map_lookup_elem(&ways_back, &slot);
}

/* Whether an earlier packet of this second, on this CPU, from the same client by the same link, has
 * passed check_source. As with flows (see flows.h), the note ends with its second, with a change of
 * config, and when the agent hears of a change of routes or links. */
static __always_inline bool recall_way_back(struct __sk_buff *skb, const struct config *config,
					    struct packet *p, __u32 now)
{
	struct way_back *note = way_back_of(p);

	if (!note || note->second != now || note->epoch != config->epoch ||
	    note->routes != route_changes() || note->ingress != skb->ingress_ifindex ||
	    !addr6_equal(&note->client, &p->client))
		return false;
	p->mtu6 = note->mtu;
	return true;
}

/* Only what the kernel has found without a doubt is noted: then it has told the route's MTU. */
static __always_inline void note_way_back(struct __sk_buff *skb, const struct config *config,
					  const struct packet *p, __u32 now, __u32 routes)
{
	struct way_back *note = way_back_of(p);

	if (!note || !p->mtu6)
		return;
	note->client = p->client;
	note->ingress = skb->ingress_ifindex;
	note->second = now;
	note->routes = routes;
	note->epoch = config->epoch;
	note->mtu = p->mtu6;
}

static __always_inline enum verdict check_source(struct __sk_buff *skb, const struct config *config,
						 __u32 slot, struct packet *p)
{
	bool arrived = p->direction == DIR_6TO4 && skb->ingress_ifindex;
	__u32 now = now_seconds(), routes = route_changes(); /* before what is noted with them */
	__u32 listed = 0;

	if (arrived && recall_way_back(skb, config, p, now))
		return GO_ON;
	if (config->flags & (CONFIG_SOURCES_LISTED | CONFIG_PODS_KNOWN)) {
		struct source_key key = {.prefix_length = 160, .slot = slot, .address = p->client};
		__u32 *found = bpf_map_lookup_elem(&sources, &key);

		listed = found ? *found : 0;
	}
	if (config->flags & CONFIG_SOURCES_LISTED && !(listed & SOURCE_ALLOWED))
		return STOP_dropped_source_denied;
	if (!arrived)
		return GO_ON;
	listed |= rights_by_peer(skb, p);
	if (p->flags & PACKET_FROM_OUTSIDE && !(listed & SOURCE_ALLOWED))
		return STOP_dropped_source_behind_uplink;
	if (config->flags & CONFIG_PODS_KNOWN && !listed)
		return STOP_dropped_source_not_a_pod;
	STEP(check_way_back(skb, config, p, listed));
	note_way_back(skb, config, p, now, routes);
	return GO_ON;
}
