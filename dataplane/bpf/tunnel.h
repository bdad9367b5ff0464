/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tunnel between router nodes and gateway nodes: VXLAN over the nodes' IPv6, by one device in
 * external mode on each node. The programs choose the other end and check what comes out. */
#pragma once

#include "offload.h"
#include "return.h"
#include "rfc6052.h"
#include "send.h"
#include "topology.h"

#define TUNNEL_HOPS 64

/* The Ethernet header inside the tunnel says nothing. The receiver's VXLAN device drops a frame
 * only if the source is its own address. */
static __always_inline void write_tunnel_link(struct __sk_buff *skb)
{
	const __u8 link[2 * ETH_ALEN] = {2, 0, 0, 0, 0, 0x64, 2, 0, 0, 0, 1, 0x64};

	bpf_skb_store_bytes(skb, 0, link, sizeof(link), 0);
}

/* Have the VXLAN device send the packet to that node. */
static __always_inline enum verdict enter_tunnel(struct __sk_buff *skb, const struct topology *here,
						 const union addr6 *node)
{
	struct bpf_tunnel_key key = {.tunnel_id = here->vni, .tunnel_ttl = TUNNEL_HOPS};

	__builtin_memcpy(key.remote_ipv6, node, sizeof(key.remote_ipv6));
	/* the receiver knows us by this address; the route may prefer another one */
	__builtin_memcpy(key.local_ipv6, &here->node, sizeof(key.local_ipv6));
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
		return STOP_dropped_internal;
	write_tunnel_link(skb);
	return GO_ON;
}

/* Egress of the VXLAN device on a gateway node: what the kernel's routes, or the translator, have
 * sent to the tunnel. */
inline_step enum verdict encap_packet(struct __sk_buff *skb, struct packet *p)
{
	struct topology *here = topology_here();
	struct peer *router;

	if (!here || here->role != ROLE_GATEWAY || !here->tunnel)
		return STOP_dropped_not_configured;
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return STOP_held; /* what the kernel says to a link by itself */
	STEP(parse_ipv6(skb, p));
	if (source6_is_illegal(&p->remote6))
		return STOP_held; /* likewise: to a group, or link-local */
	router = peer_of(&p->remote6);
	return router ? enter_tunnel(skb, here, &router->node) : STOP_dropped_no_router;
}

static __always_inline enum tc_action encap(struct __sk_buff *skb)
{
	struct counters *here = counters_here();
	struct packet p = {.direction = DIR_4TO6};
	enum verdict stop = encap_packet(skb, &p);

	if (!stop)
		return ACTION_PASS;
	if (here && stop != STOP_held) {
		here->value[DIR_4TO6][COUNT_received]++;
		count_stop(here, DIR_4TO6, stop);
	}
	return ACTION_DROP;
}

/* Read the node that has sent a packet through the tunnel. This and the next two functions aren't
 * inlined, for the sake of the stack. */
static __noinline enum verdict tunnel_source(struct __sk_buff *skb, const struct topology *here,
					     union addr6 *node)
{
	struct bpf_tunnel_key key = {};

	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return STOP_dropped_malformed;
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6) ||
	    key.tunnel_id != here->vni)
		return STOP_dropped_tunnel_not_member; /* for example VXLAN over IPv4 */
	__builtin_memcpy(node, key.remote_ipv6, sizeof(*node));
	return GO_ON;
}

/* A packet from a router node: its source must be of that very node. */
inline_step enum verdict check_from_router(const struct config *config, const union addr6 *node,
					   struct packet *p)
{
	struct peer *owner = peer_of(&p->client);

	if (!owner || !addr6_equal(&owner->node, node))
		return is_member(node) ? STOP_dropped_tunnel_source_of_another
				       : STOP_dropped_tunnel_not_member;
	return remote_from_ipv6(config, p) ? GO_ON : STOP_dropped_tunnel_destination;
}

/* A packet from a gateway node: it must stand for an IPv4 host, or be of that very node, whose
 * kernel makes ICMP errors. */
inline_step enum verdict check_from_gateway(const struct config *config, const union addr6 *node,
					    const struct packet *p)
{
	if (!is_member(node))
		return STOP_dropped_tunnel_not_member;
	if (in_pref64(config, &p->client) || in_clat_prefix(config, &p->client) ||
	    addr6_equal(&p->client, node))
		return GO_ON;
	return STOP_dropped_tunnel_source;
}

static __always_inline enum tc_action drop_tunnelled(enum direction direction, enum verdict stop)
{
	struct counters *here = counters_here();

	if (here) {
		here->value[direction][COUNT_received]++;
		count_stop(here, direction, stop);
	}
	return ACTION_DROP;
}

/* On a gateway node: what is believed and of a known flow is translated here; the kernel forwards
 * the rest, and nat64_egress counts it. */
static __noinline enum tc_action decap_from_router(struct __sk_buff *skb,
						   const struct config *config,
						   const struct topology *here, __u32 slot)
{
	struct packet p = {.direction = DIR_6TO4, .slot = slot};
	struct counters *counts = counters_here();
	union addr6 node = {};
	enum verdict stop = tunnel_source(skb, here, &node);

	if (!stop)
		stop = parse_ipv6(skb, &p);
	if (!stop)
		stop = check_from_router(config, &node, &p);
	if (stop)
		return drop_tunnelled(DIR_6TO4, stop);
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST); /* see write_tunnel_link */
	if (!here->offload || !counts || !is_plain(skb) || !parse_plain_rest(skb, &p))
		return ACTION_PASS;
	return offload_known(skb, config, &p, counts);
}

static __noinline enum tc_action
decap_from_gateway(struct __sk_buff *skb, const struct config *config, const struct topology *here)
{
	struct packet p = {.direction = DIR_4TO6};
	struct counters *counts = counters_here();
	union addr6 node = {};
	enum verdict stop = tunnel_source(skb, here, &node);

	if (!counts)
		return ACTION_DROP;
	if (!stop)
		stop = parse_ipv6(skb, &p);
	if (!stop)
		stop = check_from_gateway(config, &node, &p);
	if (stop)
		return drop_tunnelled(DIR_4TO6, stop);
	return return_to_client(skb, config, &p, counts);
}

/* Ingress of the VXLAN device. */
static __always_inline enum tc_action decap(struct __sk_buff *skb)
{
	struct topology *here = topology_here();
	struct config *config;
	__u32 slot = 0;

	config = active_config(&slot);
	if (here && config && config->interface && here->tunnel) {
		if (here->role == ROLE_GATEWAY)
			return decap_from_router(skb, config, here, slot);
		if (here->role == ROLE_ROUTER)
			return decap_from_gateway(skb, config, here);
	}
	return drop_tunnelled(DIR_6TO4, STOP_dropped_not_configured);
}
