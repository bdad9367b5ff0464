/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a translated packet goes.
 *
 * Fast path: the program looks up the kernel's routes and neighbours, and the packet goes straight
 * to its device. Otherwise the kernel gets the packet, as if it had come in on nat64-NAME. The
 * kernel then routes, resolves neighbours, fragments, and makes every ICMP error that is due; such
 * an error comes back to us.
 */
#pragma once

#include "pod_routes.h"
#include "topology.h"

static __always_inline enum tc_action to_kernel(struct __sk_buff *skb, const struct config *config)
{
	__u8 link[2 * ETH_ALEN];

	__builtin_memcpy(link, config->mac, ETH_ALEN);
	__builtin_memcpy(link + ETH_ALEN, config->mac, ETH_ALEN);
	bpf_skb_store_bytes(skb, 0, link, sizeof(link), 0);
	return bpf_redirect(config->interface, BPF_F_INGRESS);
}

/* Add one to the TTL: the kernel has decremented the hop limit on the packet's way here, and will
 * decrement the TTL once more. */
static __always_inline void raise_ttl(struct __sk_buff *skb, struct packet *p)
{
	__u32 field = p->l3 + offsetof(struct iphdr, ttl);
	__be16 old = bpf_htons(p->ttl << 8 | p->protocol);
	__be16 new = bpf_htons((p->ttl + 1) << 8 | p->protocol);
	__u8 ttl = p->ttl + 1;

	if (p->ttl == 255)
		return;
	bpf_l3_csum_replace(skb, p->l3 + offsetof(struct iphdr, check), old, new, sizeof(new));
	bpf_skb_store_bytes(skb, field, &ttl, sizeof(ttl), 0);
}

/* Send the packet to one of our own mappings: through lo, as if it had come in, where the other
 * program receives it. */
static __always_inline enum tc_action to_ourselves(void)
{
	return bpf_redirect(LOOPBACK_IFINDEX, BPF_F_INGRESS);
}

/* The note of an earlier packet of the flow, if `p` may take the same route; otherwise NULL. */
static __always_inline struct flow *recalled_route(struct packet *p, __u32 length)
{
	struct flow *flow;

	if (p->flags & (PACKET_SLOW | PACKET_HAIRPIN) || !(p->flags & PACKET_ROUTED))
		return NULL;
	flow = flow_at(p);
	if (!flow || length > flow->mtu || !is_of_client(flow, p) || !is_of_pool(flow, p))
		return NULL;
	if (!(p->flags & PACKET_RECALLED))
		note_session(flow, p);
	return flow;
}

/* Whether packets by this route may be given the Ethernet addresses that the kernel has found with
 * it, without asking for the neighbour each time. The first packet of a flow in each second asks,
 * so the kernel keeps the neighbour. */
static __always_inline bool has_addresses(const struct bpf_fib_lookup *route)
{
	__u32 ifindex = route->ifindex;
	struct uplink *link = bpf_map_lookup_elem(&uplinks, &ifindex);

	return link && link->flags & UPLINK_ETHERNET;
}

static __always_inline enum tc_action send_recalled(struct __sk_buff *skb, const struct packet *p,
						    struct flow *flow, struct counters *here)
{
	here->value[p->direction == DIR_6TO4 ? DIR_6TO4 : DIR_4TO6][COUNT_sent_fast]++;
	if (p->direction == DIR_6TO4 && flow->straight && address_frame(skb, flow->link))
		return bpf_redirect(flow->ifindex, 0);
	return bpf_redirect_neigh(flow->ifindex, &flow->hop, sizeof(flow->hop), 0);
}

/* Whether the kernel finds a route by which the packet may go directly to its device. */
static __always_inline bool find_fast_route(struct __sk_buff *skb, struct packet *p,
					    struct bpf_fib_lookup *route, __u32 flags)
{
	long found = bpf_fib_lookup(skb, route, sizeof(*route), flags);

	if (found == BPF_FIB_LKUP_RET_SUCCESS) {
		note_resolved(route);
		return true;
	}
	/* The kernel hasn't told the route's MTU then: later packets ask again. */
	p->flags &= ~PACKET_NOTABLE;
	return found == BPF_FIB_LKUP_RET_NO_NEIGH && device_resolves(route);
}

/* Send the packet by the route that was found. */
static __always_inline enum tc_action send_fast(struct __sk_buff *skb, struct packet *p,
						const struct config *config,
						const struct bpf_fib_lookup *route, bool straight,
						struct counters *here)
{
	struct bpf_redir_neigh hop = {};

	hop_of(route, &hop);
	if (p->flags & PACKET_NOTABLE)
		note_flow(skb, p, config, route, straight);
	here->value[p->direction == DIR_6TO4 ? DIR_6TO4 : DIR_4TO6][COUNT_sent_fast]++;
	return bpf_redirect_neigh(route->ifindex, &hop, sizeof(hop), 0);
}

static __noinline enum tc_action send_ipv4(struct __sk_buff *skb, const struct config *config,
					   struct packet *p, struct counters *here)
{
	__u32 length = wire_length(skb, p, p->l4 - p->l3);
	struct flow *recalled = recalled_route(p, length);

	if (recalled)
		return send_recalled(skb, p, recalled, here);
	if (p->flags & PACKET_HAIRPIN) {
		here->value[DIR_6TO4][COUNT_hairpinned]++;
		raise_ttl(skb, p);
		return to_ourselves();
	}
	if (!(p->flags & PACKET_SLOW)) {
		struct bpf_fib_lookup route = {.tot_len = length};

		ask_ipv4(&route, p, config->interface);
		if (find_fast_route(skb, p, &route, mark_route(skb, p, &route)))
			return send_fast(skb, p, config, &route, has_addresses(&route), here);
	}
	here->value[DIR_6TO4][COUNT_sent_kernel]++;
	raise_ttl(skb, p);
	return to_kernel(skb, config);
}

/* Add an Ethernet header to a packet from an uplink that has none: every device that we redirect to
 * expects one. */
static __always_inline int ensure_ethernet_header(struct __sk_buff *skb, struct packet *p)
{
	__be16 type = skb->protocol;

	if (p->l3 == ETH_HLEN)
		return 0;
	if (bpf_skb_change_head(skb, ETH_HLEN, 0))
		return -1;
	p->l3 += ETH_HLEN;
	p->l4 += ETH_HLEN;
	return bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0);
}

static __always_inline void write_hop_limit(struct __sk_buff *skb, const struct packet *p,
					    __u8 hop_limit)
{
	/* RECOMPUTE: the kernel may have summed the bytes already */
	bpf_skb_store_bytes(skb, p->l3 + offsetof(struct ipv6hdr, hop_limit), &hop_limit,
			    sizeof(hop_limit), BPF_F_RECOMPUTE_CSUM);
}

/* Whether the tunnel's device can't take the packet from here. To cut a GSO packet, the kernel must
 * know where the transport header begins. It doesn't know that for a packet that no IP layer has
 * seen yet, and the tunnel drops it as too long. */
static __always_inline bool needs_ip_layer(struct __sk_buff *skb, __u32 ifindex)
{
	struct topology *here;

	if (!skb->gso_size)
		return false;
	here = topology_here();
	return here && here->tunnel && here->tunnel == ifindex;
}

/* The note of an earlier packet of the flow, if `p` may go straight into its pod; otherwise NULL.
 * It is apart from send_ipv6(), because calling that costs as much as all of this. */
static __always_inline struct flow *straight_route(struct __sk_buff *skb, struct packet *p)
{
	struct flow *flow;

	if (!(p->flags & PACKET_RECALLED))
		return NULL;
	flow = recalled_route(p, wire_length(skb, p, p->l4 - p->l3));
	return flow && flow->straight && !needs_ip_layer(skb, flow->ifindex) ? flow : NULL;
}

static __noinline enum tc_action send_ipv6(struct __sk_buff *skb, const struct config *config,
					   struct packet *p, struct counters *here)
{
	__u32 length = wire_length(skb, p, p->l4 - p->l3);
	struct flow *recalled;

	if (ensure_ethernet_header(skb, p))
		return ACTION_DROP;
	recalled = recalled_route(p, length);
	if (recalled && needs_ip_layer(skb, recalled->ifindex))
		p->flags |= PACKET_SLOW;
	else if (recalled && recalled->straight)
		return enter_pod(skb, recalled->ifindex, recalled->link, here);
	else if (recalled)
		return send_recalled(skb, p, recalled, here);
	if (!(p->flags & PACKET_SLOW)) {
		struct bpf_fib_lookup route = {.tot_len = length};
		__u32 routes = route_changes(); /* before the lookup */
		bool straight = false;

		if (recall_pod_route(p, config, length, &route, &straight) &&
		    !needs_ip_layer(skb, route.ifindex))
			return send_fast(skb, p, config, &route, straight, here);
		ask_ipv6(&route, p, config->interface);
		if (find_fast_route(skb, p, &route, 0) && !needs_ip_layer(skb, route.ifindex)) {
			straight = note_pod_route(p, config, &route, routes);
			return send_fast(skb, p, config, &route, straight, here);
		}
	}
	if (!(p->flags & PACKET_FORWARDED))
		write_hop_limit(skb, p, p->ttl);
	else if (p->ttl < 255)
		write_hop_limit(skb, p, p->ttl + 1);
	here->value[DIR_4TO6][COUNT_sent_kernel]++;
	return to_kernel(skb, config);
}
