/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the program asks the kernel about routes and neighbours. */
#pragma once

#include "context.h"

#define LOOKUP_SOURCE (1U << 4) /* BPF_FIB_LOOKUP_SRC, from Linux 6.7 */
#define LOOKUP_MARK   (1U << 5) /* BPF_FIB_LOOKUP_MARK, from Linux 6.10 */

#define HOP_CYCLE 4 /* seconds; the kernel gives up on a neighbour after three */

/* Ask for the route to the IPv4 side, for a packet of p's connection. */
static __always_inline void ask_ipv4(struct bpf_fib_lookup *route, const struct packet *p,
				     __u32 interface)
{
	route->family = AF_INET;
	route->l4_protocol = p->protocol;
	route->sport = p->pool_port;
	route->dport = p->remote_port;
	route->ifindex = interface;
	route->tos = p->traffic_class;
	route->ipv4_src = p->pool;
	route->ipv4_dst = p->remote;
}

/* Let the lookup see the packet's mark, if routes may depend on it. Returns the flag to add; with
 * it, kernels before 6.10 answer EINVAL. */
static __always_inline __u32 mark_route(struct __sk_buff *skb, const struct packet *p,
					struct bpf_fib_lookup *route)
{
	__u32 mark = skb->mark;

	if (!(p->flags & PACKET_MARKED))
		return 0;
	__builtin_memcpy(route->smac, &mark, sizeof(mark)); /* a union, in newer headers */
	return LOOKUP_MARK;
}

/* Likewise, for the route to the client. */
static __always_inline void ask_ipv6(struct bpf_fib_lookup *route, const struct packet *p,
				     __u32 interface)
{
	route->family = AF_INET6;
	route->l4_protocol = p->protocol == IPPROTO_ICMP ? IPPROTO_ICMPV6 : p->protocol;
	route->sport = p->remote_port;
	route->dport = p->client_port;
	route->ifindex = interface;
	__builtin_memcpy(route->ipv6_src, &p->remote6, sizeof(p->remote6));
	__builtin_memcpy(route->ipv6_dst, &p->client, sizeof(p->client));
}

static __always_inline void hop_of(const struct bpf_fib_lookup *route, struct bpf_redir_neigh *hop)
{
	hop->nh_family = route->family;
	__builtin_memcpy(hop->ipv6_nh, route->ipv6_dst, sizeof(hop->ipv6_nh));
}

/* The Ethernet addresses that the kernel has found with the route. */
static __always_inline void note_link(__u8 *link, const struct bpf_fib_lookup *route)
{
	__builtin_memcpy(link, route->dmac, ETH_ALEN);
	__builtin_memcpy(link + ETH_ALEN, route->smac, ETH_ALEN);
}

static __always_inline __u32 *unresolved_since(const struct bpf_fib_lookup *route)
{
	__u32 mixed = (route->ipv6_dst[0] ^ route->ipv6_dst[3]) + route->ifindex;
	__u32 slot = (mixed * 0x9e3779b1) >> (32 - 6);

	_Static_assert(HOP_SLOTS == 1 << 6, "the hash has 6 bits");
	return bpf_map_lookup_elem(&unresolved, &slot);
}

/* Whether a packet goes to its device although the next hop has no link-layer address. The device
 * asks for the address and keeps the packet meanwhile, whatever packet filters say about
 * forwarding. If the hop still has no address a second later, packets take the kernel's path, which
 * sends "host unreachable"; after HOP_CYCLE the device asks again. */
static __always_inline bool device_resolves(const struct bpf_fib_lookup *route)
{
	__u32 *since = unresolved_since(route);
	__u32 now = now_seconds();

	if (!since)
		return false;
	if (now - *since >= HOP_CYCLE)
		*since = now;
	return *since == now;
}

static __always_inline void note_resolved(const struct bpf_fib_lookup *route)
{
	__u32 *since = unresolved_since(route);

	if (since && *since)
		*since = 0;
}
