/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMPv6 errors: from the pods, from routers on the way to them, and from this node's kernel. */
#pragma once

#include "icmp_error_to_ipv4.h"
#include "overload.h"

/* The inner packet is one that we sent to the client: its source is the remote end. */
inline_step enum verdict parse_inner_ipv6(struct __sk_buff *skb, const struct config *config,
					  const struct packet *p, struct packet *inner)
{
	STEP(read_inner_ipv6(skb, p, inner));
	if (!remote_from_ipv6(config, inner))
		return STOP_dropped_icmp_without_session;
	return read_inner_ipv6_rest(skb, p, inner);
}

static __noinline bool overloaded_is_live(struct packet *inner)
{
	return find_overloaded(inner) && session_is_live(inner);
}

/* Find the session of the inner packet. It is only read. */
static __always_inline enum verdict find_inner_session_6to4(struct packet *inner)
{
	if (find_zone(inner))
		return GO_ON;
	if (inner->protocol == IPPROTO_TCP && overloaded_is_live(inner))
		return GO_ON;
	return STOP_dropped_icmp_without_session;
}

/* The smaller of the route's MTU and `mtu`. */
static __always_inline __u32 limit_by_route_ipv4(struct __sk_buff *skb, const struct config *config,
						 const struct packet *inner, __u32 mtu)
{
	struct bpf_fib_lookup route = {
		.family = AF_INET,
		.l4_protocol = inner->protocol,
		.tot_len = 0xffff,
		.ifindex = config->interface,
		.ipv4_src = inner->pool,
		.ipv4_dst = inner->remote,
	};

	return smaller_mtu(skb, &route, mtu);
}

__noinline enum verdict error_to_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct error_work *work = work_here();
	struct packet *inner;
	struct config *config;
	__u32 mtu = 0;

	REQUIRE(p, STOP_dropped_internal);
	REQUIRE(work, STOP_dropped_internal);
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	inner = &work->inner;
	work->meaning = meaning_6to4(p->icmp_type, p->icmp_code);
	if (!work->meaning.known)
		return STOP_dropped_icmp_type;
	STEP(parse_inner_ipv6(skb, config, p, inner));
	inner->slot = p->slot;
	STEP(read_error(skb, p, work));
	if (!addr6_equal(&p->remote6, &inner->remote6))
		return STOP_dropped_icmp_ends_differ; /* not where its inner packet is from */
	STEP(find_inner_session_6to4(inner));
	if (p->flags & PACKET_FROM_OUTSIDE && !(inner->session_flags & SESSION_OUTSIDE))
		return STOP_dropped_source_behind_uplink;

	p->pool = inner->pool; /* also for a router, which has no IPv4 address (RFC 6791) */
	if (work->meaning.rest == REST_MTU)
		mtu = limit_by_route_ipv4(skb, config, inner, mtu_in_error6(work));
	STEP(write_error_ipv4(skb, config, p, work, mtu));
	p->pool_port = p->remote_port = 0;
	if (inner->session_flags & SESSION_HAIRPIN)
		p->flags |= PACKET_HAIRPIN;
	count(DIR_6TO4, COUNT_icmp_errors_translated);
	return GO_ON;
}
