/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may talk to whom. Asked when a session opens, and again after a change of config. */
#pragma once

#include "context.h"

/* Multicast, link-local, loopback and unspecified (RFC 7915 section 5.1). */
static __always_inline bool source6_is_illegal(const union addr6 *source)
{
	if (source->bytes[0] == 0xff || (source->bytes[0] == 0xfe && source->bytes[1] >> 6 == 2))
		return true;
	return !source->halves[0] && bpf_be64_to_cpu(source->halves[1]) <= 1;
}

/* The same in IPv4 (RFC 1812 section 5.3.7). */
static __always_inline bool source_is_illegal(__be32 address)
{
	__u32 first = bpf_ntohl(address) >> 24;

	return first == 0 || first == 127 || first >= 224;
}

static __always_inline enum verdict destination_refusal(enum destination_verdict verdict)
{
	switch (verdict) {
	case DESTINATION_ALLOWED:
		return GO_ON;
	case DESTINATION_DENIED:
		return STOP_dropped_destination_denied;
	case DESTINATION_NOT_GLOBAL:
		return STOP_dropped_destination_not_global;
	case DESTINATION_SPECIAL:
		return STOP_dropped_destination_special;
	case DESTINATION_LOCAL:
		return STOP_dropped_destination_local;
	}
	return STOP_dropped_internal;
}

static __always_inline bool binding_is_live(__be32 address, __be16 port, __u8 protocol)
{
	struct bib4_key key = {.pool = address, .pool_port = port, .protocol = protocol};
	struct bib4 *binding = bpf_map_lookup_elem(&bib4, &key);

	return binding && (binding->flags & BIB_STATIC || binding->expires > now_seconds());
}

static __always_inline enum verdict check_source(struct __sk_buff *skb, const struct config *config,
						 __u32 slot, const struct packet *p)
{
	if (config->flags & CONFIG_SOURCES_LISTED) {
		struct source_key key = {.prefix_length = 160, .slot = slot, .address = p->client};

		return bpf_map_lookup_elem(&sources, &key) ? GO_ON : STOP_dropped_source_denied;
	}
	if (p->direction == DIR_6TO4 && skb->ingress_ifindex) {
		__u32 ifindex = skb->ingress_ifindex;
		struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);

		if (uplink && uplink->flags & UPLINK_EXTERNAL)
			return STOP_dropped_source_behind_uplink;
	}
	return GO_ON;
}

/* Hairpinned packets come back by lo. One from elsewhere with our own address as its source is
 * forged; the kernel would call it a martian. */
static __always_inline bool is_spoofed_hairpin(struct __sk_buff *skb, const struct packet *p)
{
	return p->direction == DIR_4TO6 && skb->ifindex != LOOPBACK_IFINDEX;
}

/* Sets PACKET_HAIRPIN where the remote end is a mapping of our own (RFC 6146 section 3.8). */
__noinline enum verdict check_policy(struct __sk_buff *skb, struct packet *p)
{
	struct destination_key key = {.prefix_length = 64};
	struct destination *destination;
	struct config *config;
	int verdict = DESTINATION_ALLOWED;

	REQUIRE(p, STOP_dropped_internal);
	config = active_config(&key.slot);
	if (!config)
		return STOP_dropped_not_configured;
	STEP(check_source(skb, config, key.slot, p));

	key.address = p->remote;
	destination = bpf_map_lookup_elem(&destinations, &key);
	if (!destination)
		return GO_ON;
	verdict = destination->verdict;
	/* an ICMP query has one identifier for both ends, so it can't name a mapping of ours */
	if (destination->pool && is_spoofed_hairpin(skb, p))
		return STOP_dropped_source_illegal;
	if (destination->pool && p->protocol != IPPROTO_ICMP) {
		if (binding_is_live(p->remote, p->remote_port, p->protocol)) {
			p->flags |= PACKET_HAIRPIN;
			return GO_ON;
		}
		if (verdict != DESTINATION_ALLOWED)
			return STOP_dropped_hairpin_without_binding;
	}
	return destination_refusal(verdict);
}
