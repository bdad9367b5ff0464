/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of the bytes of an ICMPv4 error. Whoever calls this knows the addresses. */
#pragma once

#include "icmp.h"

/* The inner packet is one that we sent to the remote end. An error about any other packet passes to
 * the host. */
inline_step enum verdict parse_inner_ipv4(struct __sk_buff *skb, const struct packet *p,
					  struct packet *inner)
{
	__u32 at = p->l4 + ICMP_HEADER, header;
	struct inner_ports ports;
	struct iphdr ip;

	if (p->length < ICMP_HEADER + sizeof(ip) || bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return STOP_passed;
	__builtin_memset(inner, 0, sizeof(*inner));
	header = ip.ihl * 4;
	if (ip.version != 4 || header < sizeof(ip) || bpf_ntohs(ip.tot_len) < header)
		return STOP_passed;
	inner->pool = ip.saddr;
	inner->remote = ip.daddr;
	inner->l3 = at;
	inner->l4 = at + header;
	inner->length = bpf_ntohs(ip.tot_len) - header;
	inner->traffic_class = ip.tos;
	inner->ttl = ip.ttl;
	inner->protocol = ip.protocol;
	inner->fragment = bpf_ntohs(ip.frag_off) & (IPV4_OFFSET_MASK | IPV4_MF);
	if (inner->fragment)
		inner->flags |= PACKET_FRAGMENT;
	inner->identification = bpf_ntohs(ip.id);
	if (!read_inner_transport(skb, p, inner, &ports))
		return STOP_passed;
	inner->pool_port = ports.source;
	inner->remote_port = ports.destination;
	if (inner->protocol == IPPROTO_TCP || inner->protocol == IPPROTO_UDP)
		return GO_ON;
	if (inner->protocol != IPPROTO_ICMP || !is_query_v4(inner->icmp_type))
		return STOP_passed;
	inner->pool_port = ports.identifier;
	inner->remote_port = 0;
	return GO_ON;
}

/* The MTU that an ICMPv4 "fragmentation needed" gives, or a guess (RFC 1191 section 5). */
static __always_inline __u32 mtu_in_error(const struct error_work *work)
{
	__u32 mtu = bpf_ntohs(*(__be16 *)(work->icmp + 6));
	__u32 total = work->inner.length + sizeof(struct iphdr);
	int i;

	if (!mtu) { /* the router is older than RFC 1191 */
		for (i = 0; i < PLATEAUS; i++) {
			if (plateaus[i] < total) {
				mtu = plateaus[i];
				break;
			}
		}
	}
	return mtu;
}

/* Write the four bytes behind the checksum. `mtu` is for REST_MTU. */
inline_step enum verdict rest_of_error_ipv6(struct error_work *work, const struct ending *end,
					    __u32 mtu)
{
	__u8 pointer = work->icmp[4];

	*(__be32 *)(work->icmp + 4) = 0;
	switch (work->meaning.rest) {
	case REST_MTU:
		*(__be32 *)(work->icmp + 4) = bpf_htonl(mtu);
		return GO_ON;
	case REST_POINTER:
		if (pointer >= POINTERS_V4 ||
		    pointer_4to6[index_below(pointer, POINTERS_V4)] == NOWHERE)
			return STOP_dropped_icmp_type;
		work->icmp[7] = pointer_4to6[index_below(pointer, POINTERS_V4)];
		return GO_ON;
	case REST_FIXED:
		work->icmp[7] = NEXT_HEADER_POINTER;
		return GO_ON;
	}
	work->icmp[4] = end->inner / 8;
	return GO_ON;
}

/* Replace the packet by its translation. The addresses and ports of `p` and of its inner packet are
 * known, and read_error() has been called. `mtu` is for "fragmentation needed". */
inline_step enum verdict write_error_ipv6(struct __sk_buff *skb, const struct config *config,
					  struct packet *p, struct error_work *work, __u32 mtu)
{
	struct packet *inner = &work->inner;
	__u32 at, extra, inner_header, front;
	struct ipv6hdr *ip6;
	struct ending end;
	__u64 cut = 0;
	__u16 check;

	find_extensions(work, work->icmp[5], 4);
	extra = inner->flags & PACKET_FRAGMENT ? FRAGMENT_HEADER : 0;
	inner_header = sizeof(*ip6) + extra;
	if (work->meaning.rest != REST_NONE && work->extended) {
		/* the new type has no length field: only the inner part stays */
		__u32 whole = work->payload;

		work->payload = work->extended - work->inner_header;
		work->extended = 0;
		if (!sum_cut(skb, work, work->payload, whole, &cut))
			return STOP_dropped_truncated;
	}
	plan_ending(work, LONGEST_ERROR_V6, sizeof(*ip6) + ICMP_HEADER, inner_header, 8, &end);
	if (!sum_cut(skb, work, end.payload, work->payload, &cut))
		return STOP_dropped_truncated;

	check = begin_icmp_header(work);
	STEP(rest_of_error_ipv6(work, &end, mtu));
	if (inner->protocol == IPPROTO_ICMP)
		translate_inner_transport(work, pseudo6_sum(inner), 0, inner->client_port,
					  inner->icmp_type == ICMP_ECHO_REQUEST_V4
						  ? ICMP_ECHO_REQUEST_V6
						  : ICMP_ECHO_REPLY_V6);
	else
		translate_inner_transport(work, addresses_to_ipv6(inner), 0, inner->client_port, 0);

	front = sizeof(*ip6) + ICMP_HEADER;
	ip6 = (struct ipv6hdr *)(work->headers + front);
	write_ipv6_header(ip6, config, inner, inner->length + extra, inner->ttl);
	ip6->saddr = *(struct in6_addr *)&inner->client; /* the inner packet went the other way */
	ip6->daddr = *(struct in6_addr *)&inner->remote6;
	__builtin_memset(ip6 + 1, 0, FRAGMENT_HEADER);
	if (extra)
		write_fragment_header((__u8 *)(ip6 + 1), ip6, inner);
	p->length = ICMP_HEADER + inner_header + end.payload + end.padding;
	finish_icmp_header(work, check, cut,
			   sum_of(ip6, sizeof(*ip6) + FRAGMENT_HEADER) + pseudo6_sum(p));

	ip6 = (struct ipv6hdr *)work->headers;
	write_ipv6_header(ip6, config, p, p->length, hop_limit_of(p));
	__builtin_memcpy(work->headers + sizeof(*ip6), work->icmp, ICMP_HEADER);

	/* Remove the options of both headers, then make room for the new headers. */
	at = p->extensions + work->inner_header - sizeof(struct iphdr);
	if (at && bpf_skb_adjust_room(skb, -(__s32)at, BPF_ADJ_ROOM_NET, KEEP_GSO))
		return STOP_dropped_internal;
	if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0) ||
	    bpf_skb_adjust_room(skb, HEADER_GROWTH + extra, BPF_ADJ_ROOM_NET, KEEP_GSO))
		return STOP_dropped_internal;
	front += sizeof(*ip6);
	if (bpf_skb_store_bytes(skb, p->l3, work->headers, 2 * sizeof(*ip6) + ICMP_HEADER,
				BPF_F_RECOMPUTE_CSUM))
		return STOP_dropped_internal;
	if (extra && bpf_skb_store_bytes(skb, p->l3 + front, work->headers + front, FRAGMENT_HEADER,
					 BPF_F_RECOMPUTE_CSUM))
		return STOP_dropped_internal;
	at = p->l3 + front + extra;
	STEP(store_inner_transport(skb, work, at));
	write_ether_type(skb, p, bpf_htons(ETH_P_IPV6));
	STEP(write_ending(skb, &end, at));
	p->l4 = p->l3 + sizeof(*ip6);
	return GO_ON;
}
