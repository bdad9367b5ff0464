/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A cache of the routes to pods that have a link of their own, for the first packets of flows.
 *
 * Such a route is noted for all packets from one port of a remote end to the pod, whatever the
 * pod's port: the kernel has one link to choose, and it doesn't spread flows over it. As with flows
 * (see flows.h), a note ends with its second, with a change of config, and when the agent hears of
 * a change of routes.
 */
#pragma once

#include "straight.h"

static __always_inline struct pod_route *pod_route_of(const struct packet *p)
{
	__u32 mixed = p->client.words[2] ^ p->client.words[3] ^ p->remote;
	__u32 slot;

	mixed ^= (__u32)p->remote_port << 16 ^ p->protocol;
	slot = (mixed * 0x9e3779b1) >> (32 - POD_ROUTE_SLOT_BITS);
	return bpf_map_lookup_elem(&pod_routes, &slot);
}

/* Whether the route is noted that `p`, of `length` bytes, takes to its client. If so, it is written
 * to `route`, and `straight` says whether the flow may go into the pod. */
static __always_inline bool recall_pod_route(const struct packet *p, const struct config *config,
					     __u32 length, struct bpf_fib_lookup *route,
					     bool *straight)
{
	struct pod_route *note = pod_route_of(p);

	if (!note || !(p->flags & PACKET_NOTABLE) || note->second != p->second ||
	    note->routes != route_changes() || note->epoch != config->epoch ||
	    note->remote != p->remote || note->remote_port != p->remote_port ||
	    note->protocol != p->protocol || note->clat != (p->session_flags & SESSION_CLAT) ||
	    !addr6_equal(&note->client, &p->client) || length > note->mtu)
		return false;
	route->family = AF_INET6;
	route->ifindex = note->ifindex;
	route->mtu_result = note->mtu;
	__builtin_memcpy(route->ipv6_dst, &note->hop, sizeof(note->hop));
	__builtin_memcpy(route->dmac, note->link, ETH_ALEN);
	__builtin_memcpy(route->smac, note->link + ETH_ALEN, ETH_ALEN);
	*straight = note->straight;
	return true;
}

/* Note a route that the kernel has found while its routes were as `routes` says. Returns whether
 * the flow may go into the pod. */
static __always_inline bool note_pod_route(const struct packet *p, const struct config *config,
					   const struct bpf_fib_lookup *route, __u32 routes)
{
	__u32 ifindex = route->ifindex;
	struct pod_route *note;
	__u32 *until;

	if (!(p->flags & PACKET_NOTABLE))
		return false;
	until = bpf_map_lookup_elem(&pod_links, &ifindex);
	if (!until)
		return false;
	note = pod_route_of(p);
	if (!note)
		return false;
	note->client = p->client;
	note->remote = p->remote;
	note->remote_port = p->remote_port;
	note->protocol = p->protocol;
	note->clat = p->session_flags & SESSION_CLAT;
	note->second = p->second;
	note->routes = routes;
	note->epoch = config->epoch;
	note->mtu = route->mtu_result;
	note->ifindex = ifindex;
	__builtin_memcpy(&note->hop, route->ipv6_dst, sizeof(note->hop));
	note->straight = leads_straight(p, until);
	note_link(note->link, route);
	return note->straight;
}
