/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMPv4 errors: from the IPv4 network, and from this node's kernel through lo. */
#pragma once

#include "icmp_error_to_ipv6.h"
#include "policy.h"
#include "session.h"

static __noinline enum verdict find_inner_session_4to6(struct packet *inner)
{
	struct session_key key;
	struct session *session;

	session_key_of(inner, &key);
	session = bpf_map_lookup_elem(&sessions, &key);
	if (!session || session->flags & SESSION_CONTACT || session->life.expires <= now_seconds())
		return STOP_passed;
	inner->zone = session->zone;
	inner->session_flags = session->flags;
	inner->client = session->client;
	inner->client_port = session->client_port;
	return GO_ON;
}

/* The source of the error, as the client sees it. If the prefix must not represent the router's
 * address (RFC 6052 section 3.1), the remote end's address replaces it. Dropping the error would
 * break path MTU discovery across private networks. */
static __always_inline void error_source(const struct config *config, __u32 slot,
					 const struct packet *p, const struct packet *inner,
					 union addr6 *source)
{
	struct destination_key key = {.prefix_length = 64, .slot = slot, .address = p->remote};
	struct destination *router = bpf_map_lookup_elem(&destinations, &key);
	bool presentable = !router || router->verdict != DESTINATION_NOT_GLOBAL ||
			   inner->session_flags & SESSION_CLAT;

	embed_for_session(config, inner->session_flags, presentable ? p->remote : inner->remote,
			  source);
}

static __always_inline __u32 limit_by_route_ipv6(struct __sk_buff *skb, const struct config *config,
						 const struct packet *inner, __u32 mtu)
{
	struct bpf_fib_lookup route = {
		.family = AF_INET6,
		.l4_protocol = inner->protocol,
		.tot_len = 0xffff,
		.ifindex = config->interface,
	};

	__builtin_memcpy(route.ipv6_src, &inner->remote6, sizeof(inner->remote6));
	__builtin_memcpy(route.ipv6_dst, &inner->client, sizeof(inner->client));
	return smaller_mtu(skb, &route, mtu);
}

/* The MTU for IPv6, from an ICMPv4 "fragmentation needed" (RFC 7915 section 4.2). */
static __always_inline __u32 mtu_for_ipv6(struct __sk_buff *skb, const struct config *config,
					  const struct error_work *work)
{
	__u32 ifindex = skb->ifindex, mtu = mtu_in_error(work);
	const struct packet *inner = &work->inner;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);

	if (uplink && uplink->mtu < mtu)
		mtu = uplink->mtu;
	mtu = limit_by_route_ipv6(skb, config, inner, mtu + HEADER_GROWTH);
	return mtu < LOWEST_IPV6_MTU ? LOWEST_IPV6_MTU : mtu;
}

__noinline enum verdict error_to_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct error_work *work = work_here();
	__u32 slot, mtu = 0;
	struct packet *inner;
	struct config *config;

	REQUIRE(p, STOP_dropped_internal);
	REQUIRE(work, STOP_dropped_internal);
	slot = index_below(p->slot, CONFIG_SLOTS);
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	inner = &work->inner;
	STEP(parse_inner_ipv4(skb, p, inner));
	STEP(find_inner_session_4to6(inner));
	if (!is_way_in(skb, config, inner->zone))
		return STOP_passed;
	if (p->pool != inner->pool)
		return STOP_dropped_icmp_ends_differ; /* not where its inner packet is from */
	if (source_is_illegal(p->remote))
		return STOP_dropped_source_illegal;
	if (p->extensions)
		STEP(check_options(skb, p));
	STEP(read_error(skb, p, work));
	work->meaning = meaning_4to6(p->icmp_type, p->icmp_code);
	if (!work->meaning.known)
		return STOP_dropped_icmp_type;
	embed_for_session(config, inner->session_flags, inner->remote, &inner->remote6);
	error_source(config, slot, p, inner, &p->remote6);
	p->client = inner->client;

	if (work->meaning.rest == REST_MTU)
		mtu = mtu_for_ipv6(skb, config, work);
	STEP(write_error_ipv6(skb, config, p, work, mtu));
	p->client_port = p->remote_port = 0;
	count(DIR_4TO6, COUNT_icmp_errors_translated);
	return GO_ON;
}
