/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A cache of what a packet found, for the packets of its flow that follow within the same second on
 * the same CPU.
 *
 * It replaces a lookup of routes and, if the flow is steady, two lookups of state. No update is
 * missed: an expiry is written once a second at most, and a flow is steady if its next packet
 * changes no state. An entry ends with its second, when a packet of either direction changes the
 * state, with a change of config, and when the agent hears of a change of routes. So even without
 * an agent it is never older than a second.
 */
#pragma once

#include "route.h"
#include "tcp_state.h"

static __always_inline struct flow *flow_at(struct packet *p)
{
	__u32 slot = p->flow;

	return bpf_map_lookup_elem(&flows, &slot);
}

static __always_inline __u32 flow_slot(const struct packet *p)
{
	__u32 side = p->direction == DIR_6TO4 ? p->client.words[3] + p->client_port
					      : p->pool + p->pool_port;
	__u32 mixed = (side ^ (p->remote + ((__u32)p->remote_port << 16))) * 0x9e3779b1;

	return mixed >> (32 - FLOW_SLOT_BITS);
}

static __always_inline __u32 *moves_of(const struct packet *p)
{
	__u32 mixed = (p->pool ^ p->remote) + p->pool_port + ((__u32)p->remote_port << 16);
	__u32 slot = (mixed * 0x9e3779b1) >> (32 - MOVES_SLOT_BITS);

	return bpf_map_lookup_elem(&moves, &slot);
}

/* Note when the session of `p` is looked up, and how often its state had changed before. */
static __always_inline __u32 *remember_moves(struct packet *p, __u32 now)
{
	__u32 *moved = moves_of(p);

	p->second = now;
	p->moves = moved ? *(volatile __u32 *)moved : 0;
	return moved;
}

static __always_inline bool is_of_client(const struct flow *flow, const struct packet *p)
{
	return flow->client_port == p->client_port && addr6_equal(&flow->client, &p->client);
}

static __always_inline bool is_of_pool(const struct flow *flow, const struct packet *p)
{
	return flow->pool == p->pool && flow->pool_port == p->pool_port;
}

/* Whether the note of an earlier packet is valid for `p`. If so, `p` gets everything that its
 * session would tell. If not, the route may still be valid: recalled_route() checks that both
 * packets found the same binding. */
static __always_inline bool recall_flow(struct packet *p, const struct config *config, __u32 now)
{
	struct flow *flow;
	__u32 *moved;

	p->second = now;
	if (p->flags & PACKET_MARKED) /* the note doesn't have the mark */
		return false;
	p->flow = flow_slot(p);
	p->flags |= PACKET_NOTABLE;
	flow = flow_at(p);
	if (!flow || flow->second != now || flow->epoch != config->epoch ||
	    flow->routes != route_changes() || flow->protocol != p->protocol ||
	    flow->direction != p->direction || flow->traffic_class != p->traffic_class ||
	    flow->remote != p->remote || flow->remote_port != p->remote_port)
		return false;
	if (p->direction == DIR_6TO4 ? !is_of_client(flow, p) : !is_of_pool(flow, p))
		return false;
	if (p->flags & PACKET_FROM_OUTSIDE && !(flow->session_flags & SESSION_OUTSIDE))
		return false;
	p->flags |= PACKET_ROUTED;
	if (!flow->steady || tcp_event(p->tcp_flags) != TCP_OTHER)
		return false;
	if (p->direction == DIR_6TO4) {
		if ((flow->session_flags ^ p->session_flags) & SESSION_CLAT)
			return false;
		p->pool = flow->pool;
		p->pool_port = flow->pool_port;
	} else {
		p->client = flow->client;
		p->client_port = flow->client_port;
	}
	moved = moves_of(p);
	if (!moved || *moved != flow->moves)
		return false;
	p->session_flags = flow->session_flags;
	p->flags |= PACKET_RECALLED;
	return true;
}

/* Whether the next packet of this session will find it as this one leaves it. */
static __always_inline bool is_steady(const struct packet *p, __u8 tcp_state)
{
	if (p->flags & (PACKET_HAIRPIN | PACKET_SLOW))
		return false; /* each of these is checked for who may send it */
	return p->protocol == IPPROTO_UDP ||
	       (p->protocol == IPPROTO_TCP && tcp_state == TCP_ESTABLISHED);
}

static __always_inline void note_session(struct flow *flow, const struct packet *p)
{
	flow->steady = p->flags & PACKET_STEADY;
	flow->moves = p->moves;
	flow->session_flags = p->session_flags;
}

/* The link whose next packets of this flow may skip the stack; 0: none may. What the stack has put
 * beside the packet may decide later what becomes of it, so such packets go through the stack. */
static __always_inline __u32 link_to_offload(struct __sk_buff *skb, const struct packet *p)
{
	if (p->direction != DIR_6TO4 || skb->mark || skb->priority)
		return 0;
	return skb->ingress_ifindex;
}

/* Note what was found for `p` and the route that it takes. */
static __always_inline void note_flow(struct __sk_buff *skb, struct packet *p,
				      const struct config *config,
				      const struct bpf_fib_lookup *route, bool straight)
{
	struct flow *flow = flow_at(p);

	if (!flow)
		return;
	note_session(flow, p);
	flow->client = p->client;
	flow->pool = p->pool;
	flow->remote = p->remote;
	flow->client_port = p->client_port;
	flow->pool_port = p->pool_port;
	flow->remote_port = p->remote_port;
	flow->protocol = p->protocol;
	flow->direction = p->direction;
	flow->traffic_class = p->traffic_class;
	flow->epoch = config->epoch;
	flow->routes = route_changes();
	flow->second = p->second;
	flow->mtu = route->mtu_result;
	flow->ifindex = route->ifindex;
	flow->ingress = link_to_offload(skb, p);
	flow->straight = straight;
	if (straight)
		note_link(flow->link, route);
	hop_of(route, &flow->hop);
}
