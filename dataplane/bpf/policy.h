/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may talk to whom. This is checked when a session opens, and again after a change of config.
 */
#pragma once

#include "sources.h"
#include "zones.h"

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

/* The binding that the remote end belongs to, if it is one of our own mappings. */
static __always_inline struct bib4 *binding_of_remote(const struct packet *p)
{
	struct bib4_key key = {.pool = p->remote, .pool_port = p->remote_port};
	struct bib4 *binding;

	key.protocol = p->protocol;
	binding = bpf_map_lookup_elem(&bib4, &key);
	return binding && binding->life.expires > now_seconds() ? binding : NULL;
}

/* Whether an IPv4 packet has come in on a link that leads only to its own subnets. */
static __always_inline bool comes_by_lan(struct __sk_buff *skb, const struct config *config)
{
	__u32 ifindex = skb->ifindex;
	struct uplink *link;

	if (!(config->flags & CONFIG_ZONES))
		return false;
	link = bpf_map_lookup_elem(&uplinks, &ifindex);
	return link && link->flags & UPLINK_LAN;
}

/* Whether a packet of that zone may come in on the link. A LAN may only send packets of its own
 * zones: a host there, perhaps a pod, must not pretend to be beyond an uplink. */
static __always_inline bool is_way_in(struct __sk_buff *skb, const struct config *config,
				      __u32 zone)
{
	__u32 link;

	if (!comes_by_lan(skb, config))
		return true;
	link = config->zones[index_below(zone, MAX_ZONES)].link;
	return link == skb->ifindex || link == MANY_LINKS;
}

/* Hairpinned packets come back through lo. A packet from elsewhere with our own address as its
 * source is forged; the kernel would call it a martian. */
static __always_inline bool is_spoofed_hairpin(struct __sk_buff *skb, const struct packet *p)
{
	return p->direction == DIR_4TO6 && skb->ifindex != LOOPBACK_IFINDEX;
}

/* Check the policy for `p`. Sets PACKET_HAIRPIN if the remote end is a mapping of our own (RFC 6146
 * section 3.8). */
__noinline enum verdict check_policy(struct __sk_buff *skb, struct packet *p)
{
	struct destination_key key = {.prefix_length = 64};
	struct destination *destination;
	struct config *config;
	int verdict = DESTINATION_ALLOWED;

	REQUIRE(p, STOP_dropped_internal);
	key.slot = index_below(p->slot, CONFIG_SLOTS);
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	STEP(check_source(skb, config, key.slot, p));

	key.address = p->remote;
	destination = bpf_map_lookup_elem(&destinations, &key);
	if (!destination)
		return GO_ON;
	verdict = destination->verdict;
	if (verdict == DESTINATION_NOT_GLOBAL && p->session_flags & SESSION_CLAT)
		verdict = DESTINATION_ALLOWED;
	if (verdict == DESTINATION_DENIED)
		return STOP_dropped_destination_denied; /* also if it is one of our own */
	/* an ICMP query has one identifier for both ends, so it can't name a mapping of ours */
	if (destination->pool && is_spoofed_hairpin(skb, p))
		return STOP_dropped_source_illegal;
	if (destination->pool && p->protocol != IPPROTO_ICMP) {
		struct bib4 *binding = binding_of_remote(p);

		if (binding) {
			p->flags |= PACKET_HAIRPIN;
			p->way = binding->zone;
			return GO_ON;
		}
		if (verdict != DESTINATION_ALLOWED)
			return STOP_dropped_hairpin_without_binding;
	}
	if (destination->named)
		p->flags |= PACKET_NAMED;
	return destination_refusal(verdict);
}
