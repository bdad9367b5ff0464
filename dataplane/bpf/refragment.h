/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv4 packets without DF that are too long for IPv6 (RFC 7915 section 4): they become fragments of
 * at most lowest_ipv6_mtu bytes.
 *
 * The kernel fragments them, because only the kernel can complete what devices have yet to do
 * (checksums, segments). The program translates the transport header and replaces the destination
 * by an address that the kernel routes to nat64-NAME with a small MTU. The fragments come out
 * there, at nat64_egress, where only their IP headers are left to translate.
 */
#pragma once

#include "fragments.h"
#include "send.h"
#include "translate.h"

/* Plus the ifindex of nat64-NAME, so that each instance has its own address. The agent adds its
 * route. */
#define FRAGMENTER_BASE 0xf0400000U /* 240.64.0.0 */

static __always_inline __be32 fragmenter(const struct config *config)
{
	return bpf_htonl(FRAGMENTER_BASE + config->interface);
}

static __always_inline bool wants_fragmenting(struct __sk_buff *skb, const struct config *config,
					      const struct packet *p)
{
	__u32 header = p->flags & PACKET_FRAGMENT ? FRAGMENT_HEADER : 0;

	if (skb->gso_size || (p->flags & PACKET_DF && !header))
		return false;
	if (p->ttl <= 1)
		return false; /* it expires later, where the error can be translated */
	if (p->flags & PACKET_REFRAGMENT)
		return true;
	return sizeof(struct ipv6hdr) + header + p->length > config->lowest_ipv6_mtu;
}

static __always_inline bool fragmenter_is_routed(struct __sk_buff *skb, const struct config *config)
{
	struct bpf_fib_lookup route = {
		.family = AF_INET,
		.ifindex = config->interface,
		.ipv4_dst = fragmenter(config),
	};
	long found = bpf_fib_lookup(skb, &route, sizeof(route), 0);

	return (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH ||
		found == BPF_FIB_LKUP_RET_FRAG_NEEDED) &&
	       route.ifindex == config->interface;
}

static __always_inline int replace_ip_field(struct __sk_buff *skb, const struct packet *p,
					    __u32 field, __u32 old, __u32 new, __u32 size)
{
	if (bpf_l3_csum_replace(skb, p->l3 + offsetof(struct iphdr, check), old, new, size))
		return -1;
	return bpf_skb_store_bytes(skb, p->l3 + field, &new, size, 0);
}

/* STOP_fragmented: the packet is ready for the kernel. GO_ON: there is no route to the fragmenter,
 * so the packet is sent whole. */
__noinline enum verdict refragment(struct __sk_buff *skb, struct packet *p)
{
	__u32 zero = 0, identification;
	bool is_completed;
	struct shared *all;
	struct config *config;
	__be32 pool;

	REQUIRE(p, STOP_dropped_internal);
	all = bpf_map_lookup_elem(&shared, &zero);
	config = config_of(p);
	if (!config || !all)
		return STOP_dropped_not_configured;
	if (!fragmenter_is_routed(skb, config))
		return GO_ON;
	if (is_fragment(p))
		note_refragmented(p);
	if (!is_later_fragment(p))
		STEP(transport_to_ipv6(skb, p, &is_completed));
	/* The packets of all clients have the same destination now, so the sender's identification
	 * doesn't tell them apart. This one repeats after 65536 packets, and the fragments are
	 * through by then. */
	identification = p->identification;
	p->identification = __sync_fetch_and_add(&all->refragmented, 1) & 0xffff;
	if (replace_ip_field(skb, p, offsetof(struct iphdr, id), bpf_htons((__u16)identification),
			     bpf_htons((__u16)p->identification), sizeof(__be16)))
		return STOP_dropped_internal;
	pool = p->pool;
	p->pool = fragmenter(config);
	if (replace_ip_field(skb, p, offsetof(struct iphdr, daddr), pool, p->pool, sizeof(pool)))
		return STOP_dropped_internal;
	STEP(remember_fragment(p, FRAGMENT_TRANSLATE, identification));
	if (ensure_ethernet_header(skb, p))
		return STOP_dropped_internal;
	return STOP_fragmented;
}

/* Translate the fragments that come back. Other packets pass. */
__noinline enum verdict translate_refragmented(struct __sk_buff *skb, struct packet *p)
{
	struct config *config;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config)
		return STOP_passed;
	p->l3 = ETH_HLEN;
	if (parse_ipv4(skb, p) || p->pool != fragmenter(config))
		return STOP_passed;
	if (skb->ingress_ifindex != config->interface)
		return STOP_dropped_fragmenter_foreign; /* not one that refragment() sent */
	if (fragment_fate(p) != FRAGMENT_TRANSLATE)
		return STOP_dropped_fragment_unexpected;
	embed_for_session(config, p->session_flags, p->remote, &p->remote6);
	p->flags |= PACKET_FORWARDED;
	return header_to_ipv6(skb, config, p);
}
