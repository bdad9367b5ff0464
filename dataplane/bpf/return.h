/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Router nodes: the way of replies from the tunnel to a pod.
 *
 * The route to a pod that has a link of its own is noted for all packets from one remote end to it:
 * the kernel has one link to choose. As with flows (see flows.h), a note ends with its second, with
 * a change of config, and when the agent hears of a change of routes. Packets go straight into the
 * pod as on nodes that translate (see straight.h).
 */
#pragma once

#include "send.h"

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, return_ways, __u32, struct return_way, RETURN_WAY_SLOTS, 0);

/* In packets that come out of the tunnel, `client` is the source. */
static __always_inline struct return_way *return_way_of(const struct packet *p)
{
	__u32 mixed = p->remote6.words[2] ^ p->remote6.words[3] ^ p->client.words[3];
	__u32 slot = (mixed * 0x9e3779b1) >> (32 - RETURN_WAY_SLOT_BITS);

	return bpf_map_lookup_elem(&return_ways, &slot);
}

/* The note of the way that `p`, of `length` bytes, takes; or NULL. */
static __always_inline struct return_way *
recall_return_way(const struct packet *p, const struct config *config, __u32 length)
{
	struct return_way *note = return_way_of(p);

	return note && note->second == now_seconds() && note->routes == route_changes() &&
			       note->epoch == config->epoch && length <= note->mtu &&
			       addr6_equal(&note->client, &p->remote6) &&
			       addr6_equal(&note->remote, &p->client)
		       ? note
		       : NULL;
}

/* Note a route that the kernel has found, with a neighbour, while its routes were as `routes` says.
 */
static __always_inline void note_return_way(struct packet *p, const struct config *config,
					    const struct bpf_fib_lookup *route, __u32 routes)
{
	struct return_way *note = return_way_of(p);
	__u32 ifindex = route->ifindex, *until;

	until = bpf_map_lookup_elem(&pod_links, &ifindex);
	if (!note || !until)
		return;
	p->second = now_seconds();
	note->client = p->remote6;
	note->remote = p->client;
	note->second = p->second;
	note->routes = routes;
	note->epoch = config->epoch;
	note->mtu = route->mtu_result;
	note->ifindex = ifindex;
	note->straight = leads_straight(p, until);
	__builtin_memcpy(&note->hop, route->ipv6_dst, sizeof(note->hop));
	note_link(note->link, route);
}

static __always_inline enum tc_action
return_again(struct __sk_buff *skb, const struct return_way *note, struct counters *here)
{
	struct bpf_redir_neigh hop = {.nh_family = AF_INET6};

	if (note->straight) {
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST); /* see write_tunnel_link */
		return enter_pod(skb, note->ifindex, note->link, here);
	}
	here->value[DIR_4TO6][COUNT_sent_fast]++;
	__builtin_memcpy(hop.ipv6_nh, &note->hop, sizeof(hop.ipv6_nh));
	return bpf_redirect_neigh(note->ifindex, &hop, sizeof(hop), 0);
}

/* Give a reply on to the pod, or to the node itself. A router is a hop: it takes one off the hop
 * limit, here or in the kernel. */
static __always_inline enum tc_action return_to_client(struct __sk_buff *skb,
						       const struct config *config,
						       struct packet *p, struct counters *here)
{
	struct bpf_fib_lookup route = {.family = AF_INET6, .ifindex = config->interface};
	__u32 length, routes = route_changes(); /* before the lookup */
	struct return_way *note;
	__be16 unused;

	here->value[DIR_4TO6][COUNT_received]++;
	here->value[DIR_4TO6][COUNT_returned]++;
	if (skb->gso_size && parse_transport(skb, p, &unused, &unused))
		p->transport_header = 0;
	length = wire_length(skb, p, sizeof(struct ipv6hdr));
	note = p->ttl > 1 ? recall_return_way(p, config, length) : NULL;
	if (note) {
		write_hop_limit(skb, p, p->ttl - 1);
		return return_again(skb, note, here);
	}
	route.tot_len = length;
	__builtin_memcpy(route.ipv6_src, &p->client, sizeof(p->client));
	__builtin_memcpy(route.ipv6_dst, &p->remote6, sizeof(p->remote6));
	p->flags |= PACKET_NOTABLE;
	if (p->ttl > 1 && find_fast_route(skb, p, &route, 0)) {
		struct bpf_redir_neigh hop = {};

		hop_of(&route, &hop);
		if (p->flags & PACKET_NOTABLE)
			note_return_way(p, config, &route, routes);
		write_hop_limit(skb, p, p->ttl - 1);
		here->value[DIR_4TO6][COUNT_sent_fast]++;
		return bpf_redirect_neigh(route.ifindex, &hop, sizeof(hop), 0);
	}
	here->value[DIR_4TO6][COUNT_sent_kernel]++;
	return to_kernel(skb, config);
}
