/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ways out over IPv4. A node may have several (two networks, a VPN, a LAN beside the default
 * route), each with a source address of its own. A zone is everything that leaves with one such
 * address: it has its own part of the pools and its own bindings, and mapping is
 * endpoint-independent within it. The kernel decides which way a new session takes; the session
 * then stays in its zone. */
#pragma once

#include "route.h"

#define EINVAL 22

static __always_inline bool is_zone(const struct config *config, __u32 number)
{
	return number < MAX_ZONES && config->zones[index_below(number, MAX_ZONES)].ranges;
}

/* The zone of a route that was found: from its `source` (0: before Linux 6.7), or else from its
 * link. A route without a known zone belongs to that of the way to the rest of the world. */
static __always_inline __u32 zone_of_route(const struct config *config,
					   const struct bpf_fib_lookup *route, __be32 source)
{
	__u32 ifindex = route->ifindex, *number;
	struct uplink *link;

	if (source) {
		number = bpf_map_lookup_elem(&zones, &source);
		return number && is_zone(config, *number) ? *number : config->zone;
	}
	link = bpf_map_lookup_elem(&uplinks, &ifindex);
	return link && is_zone(config, link->zone) ? link->zone : config->zone;
}

/* Ask the kernel for the way of a new connection: as the node itself would ask, without a source
 * address. Sets p->way. */
__noinline int find_way_out(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_fib_lookup route = {.family = AF_INET};
	struct config *config;
	__u32 flags = 0;
	long found;
	int i;

	REQUIRE(p, BPF_FIB_LKUP_RET_NOT_FWDED);
	config = config_of(p);
	if (!config)
		return BPF_FIB_LKUP_RET_NOT_FWDED;
	route.ifindex = config->interface;
	route.tos = p->traffic_class;
	route.ipv4_dst = p->remote;
	route.l4_protocol = p->protocol;
	route.dport = p->remote_port;
	flags = mark_route(skb, p, &route);
	if (config->flags & CONFIG_ZONES)
		flags |= LOOKUP_SOURCE;
	found = bpf_fib_lookup(skb, &route, sizeof(route), flags);
	/* older kernels: first without the mark, then without the source */
	for (i = 0; i < 2 && found == -EINVAL && flags; i++) {
		flags = flags & LOOKUP_MARK ? flags & ~LOOKUP_MARK : 0;
		found = bpf_fib_lookup(skb, &route, sizeof(route), flags);
	}
	if (config->flags & CONFIG_ZONES &&
	    (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH ||
	     found == BPF_FIB_LKUP_RET_FRAG_NEEDED))
		p->way = zone_of_route(config, &route, flags & LOOKUP_SOURCE ? route.ipv4_src : 0);
	return found;
}

static __always_inline struct way_out *way_out_of(const struct packet *p)
{
	__u32 mixed = p->remote ^ (__u32)p->remote_port << 16 ^ p->protocol;
	__u32 slot = (mixed * 0x9e3779b1) >> (32 - WAY_OUT_SLOT_BITS);

	return bpf_map_lookup_elem(&ways_out, &slot);
}

/* Whether the kernel has been asked the same in this second, on this CPU. As with flows (see
 * flows.h), the note ends with its second, with a change of config, and when the agent hears of a
 * change of routes. */
static __always_inline bool recall_way_out(const struct config *config, struct packet *p)
{
	struct way_out *note = way_out_of(p);

	if (!note || p->flags & PACKET_MARKED || note->second != p->second ||
	    note->routes != route_changes() || note->epoch != config->epoch ||
	    note->remote != p->remote || note->remote_port != p->remote_port ||
	    note->protocol != p->protocol || note->traffic_class != p->traffic_class)
		return false;
	p->way = note->zone;
	return true;
}

static __always_inline void note_way_out(const struct config *config, const struct packet *p,
					 __u32 routes)
{
	struct way_out *note = way_out_of(p);

	if (!note || p->flags & PACKET_MARKED)
		return;
	note->remote = p->remote;
	note->remote_port = p->remote_port;
	note->protocol = p->protocol;
	note->traffic_class = p->traffic_class;
	note->second = p->second;
	note->routes = routes;
	note->epoch = config->epoch;
	note->zone = p->way;
}

/* An address that the kernel delivers locally belongs to the node, even if the agent doesn't know
 * it yet. And if there is no route, no port is claimed in vain. This runs after check_policy, which
 * may know more. */
static __always_inline enum verdict check_way_out(struct __sk_buff *skb,
						  const struct config *config, struct packet *p)
{
	__u32 routes = route_changes(); /* before the lookup */
	int found;

	if (p->flags & PACKET_HAIRPIN ||
	    (p->flags & PACKET_NAMED && !(config->flags & CONFIG_ZONES)))
		return GO_ON;
	if (recall_way_out(config, p))
		return GO_ON;
	found = find_way_out(skb, p);
	if (found == BPF_FIB_LKUP_RET_SUCCESS)
		note_way_out(config, p, routes);
	if (p->flags & PACKET_NAMED)
		return GO_ON;
	switch (found) {
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return STOP_dropped_destination_without_route;
	case BPF_FIB_LKUP_RET_UNREACHABLE:
		return STOP_dropped_destination_unreachable;
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return STOP_dropped_destination_prohibited;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
		return STOP_dropped_destination_blackhole;
	default:
		return GO_ON;
	}
}
