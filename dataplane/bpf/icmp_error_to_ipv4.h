/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of the bytes of an ICMPv6 error. Whoever calls this knows the addresses. */
#pragma once

#include "icmp.h"

/* Read the fixed header of the inner packet. It went the other way: its source is where the error
 * goes, and is called remote6 as the destination of `p` is. */
inline_step enum verdict read_inner_ipv6(struct __sk_buff *skb, const struct packet *p,
					 struct packet *inner)
{
	__u32 at = p->l4 + ICMP_HEADER;
	struct ipv6hdr ip6;

	if (p->length < ICMP_HEADER + sizeof(ip6) || bpf_skb_load_bytes(skb, at, &ip6, sizeof(ip6)))
		return STOP_dropped_icmp_inner_malformed;
	__builtin_memset(inner, 0, sizeof(*inner));
	if (ip6.version != 6)
		return STOP_dropped_icmp_inner_malformed;
	__builtin_memcpy(&inner->remote6, &ip6.saddr, sizeof(inner->remote6));
	__builtin_memcpy(&inner->client, &ip6.daddr, sizeof(inner->client));
	inner->l3 = at;
	inner->l4 = at + sizeof(ip6);
	inner->length = bpf_ntohs(ip6.payload_len);
	inner->traffic_class = ip6.priority << 4 | ip6.flow_lbl[0] >> 4;
	inner->ttl = ip6.hop_limit;
	inner->protocol = ip6.nexthdr;
	return GO_ON;
}

/* Read what follows, up to its ports. */
inline_step enum verdict read_inner_ipv6_rest(struct __sk_buff *skb, const struct packet *p,
					      struct packet *inner)
{
	struct inner_ports ports;

	if (is_extension(inner->protocol) && skip_extensions(skb, inner))
		return STOP_dropped_icmp_inner_malformed;
	if (!read_inner_transport(skb, p, inner, &ports))
		return STOP_dropped_icmp_inner_malformed;
	inner->remote_port = ports.source;
	inner->client_port = ports.destination;
	if (inner->protocol == IPPROTO_TCP || inner->protocol == IPPROTO_UDP)
		return GO_ON;
	if (inner->protocol != IPPROTO_ICMPV6)
		return STOP_dropped_icmp_inner_malformed;
	inner->protocol = IPPROTO_ICMP;
	inner->remote_port = 0;
	inner->client_port = ports.identifier;
	if (inner->icmp_type < V6_FIRST_QUERY)
		return STOP_dropped_icmp_error_in_error;
	return is_query_v6(inner->icmp_type) ? GO_ON : STOP_dropped_icmp_inner_malformed;
}

/* The MTU that a "packet too big" gives, less what IPv6 needs more (RFC 7915 section 5.2). */
static __always_inline __u32 mtu_in_error6(const struct error_work *work)
{
	__u32 growth = HEADER_GROWTH, mtu = bpf_ntohl(*(__be32 *)(work->icmp + 4));

	if (work->inner.flags & PACKET_FRAGMENT)
		growth += FRAGMENT_HEADER;
	return mtu > growth ? mtu - growth : 0;
}

/* Write the four bytes behind the checksum. `mtu` is for REST_MTU. */
inline_step enum verdict rest_of_error_ipv4(struct error_work *work, const struct ending *end,
					    __u32 mtu)
{
	__u32 info = bpf_ntohl(*(__be32 *)(work->icmp + 4));

	*(__be32 *)(work->icmp + 4) = 0;
	switch (work->meaning.rest) {
	case REST_MTU:
		*(__be16 *)(work->icmp + 6) = bpf_htons(mtu > 0xffff ? 0xffff : mtu);
		return GO_ON;
	case REST_POINTER:
		if (info >= POINTERS_V6 || pointer_6to4[index_below(info, POINTERS_V6)] == NOWHERE)
			return STOP_dropped_icmp_type;
		work->icmp[4] = pointer_6to4[index_below(info, POINTERS_V6)];
		return GO_ON;
	}
	work->icmp[5] = end->inner / 4;
	return GO_ON;
}

/* Replace the packet by its translation. The addresses and ports of `p` and of its inner packet are
 * known, and read_error() has been called. `mtu` is for "packet too big". */
inline_step enum verdict write_error_ipv4(struct __sk_buff *skb, const struct config *config,
					  struct packet *p, struct error_work *work, __u32 mtu)
{
	struct packet *inner = &work->inner;
	struct ending end;
	struct iphdr *ip;
	__u32 at;
	__u64 cut = 0;
	__u16 check;

	/* The checksum of ICMPv6 covers a pseudo-header, that of ICMPv4 doesn't. */
	work->old_sum += pseudo6_sum(p);

	/* Only "destination unreachable" and "time exceeded" have extensions (RFC 4884). */
	find_extensions(work, work->icmp[4], 8);
	if (work->meaning.rest != REST_NONE || p->icmp_type == V6_PARAMETER_PROBLEM)
		work->extended = 0;
	plan_ending(work, LONGEST_ERROR_V4, sizeof(*ip) + ICMP_HEADER, sizeof(*ip), 4, &end);
	if (!sum_cut(skb, work, end.payload, work->payload, &cut))
		return STOP_dropped_truncated;

	check = begin_icmp_header(work);
	STEP(rest_of_error_ipv4(work, &end, mtu));
	if (inner->protocol == IPPROTO_ICMP)
		translate_inner_transport(work, less(pseudo6_sum(inner)), 0, inner->pool_port,
					  inner->icmp_type == ICMP_ECHO_REQUEST_V6
						  ? ICMP_ECHO_REQUEST_V4
						  : ICMP_ECHO_REPLY_V4);
	else
		translate_inner_transport(work, addresses_to_ipv4(inner), 1, inner->pool_port, 0);

	ip = (struct iphdr *)(work->headers + sizeof(*ip) + ICMP_HEADER);
	write_ipv4_header(ip, config, inner, sizeof(*ip) + inner->length,
			  ipv4_fragment_field(inner, sizeof(*ip) + inner->length),
			  inner->identification, inner->remote, inner->pool);
	finish_icmp_header(work, check, cut, sum_of(ip, sizeof(*ip)));

	p->length = ICMP_HEADER + sizeof(*ip) + end.payload + end.padding;
	ip = (struct iphdr *)work->headers;
	write_ipv4_header(ip, config, p, sizeof(*ip) + p->length, 0, bpf_get_prandom_u32(), p->pool,
			  p->remote);
	__builtin_memcpy(work->headers + sizeof(*ip), work->icmp, ICMP_HEADER);

	/* Remove the surplus bytes, all of them in front, then write the headers over the rest. */
	at = p->extensions + work->inner_header - sizeof(*ip);
	if (bpf_skb_adjust_room(skb, -(__s32)at, BPF_ADJ_ROOM_NET, KEEP_GSO) ||
	    bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0))
		return STOP_dropped_internal;
	if (bpf_skb_store_bytes(skb, p->l3, work->headers, 2 * sizeof(*ip) + ICMP_HEADER,
				BPF_F_RECOMPUTE_CSUM))
		return STOP_dropped_internal;
	at = p->l3 + 2 * sizeof(*ip) + ICMP_HEADER;
	STEP(store_inner_transport(skb, work, at));
	write_ether_type(skb, p, bpf_htons(ETH_P_IP));
	STEP(write_ending(skb, &end, at));
	p->l4 = p->l3 + sizeof(*ip);
	return GO_ON;
}
