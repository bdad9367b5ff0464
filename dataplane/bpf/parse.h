/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From bytes to struct packet. Nothing here looks up state or changes the packet. */
#pragma once

#include <linux/tcp.h>
#include <linux/udp.h>

#include "csum.h"
#include "verdict.h"

#define MAX_EXTENSIONS	    8
#define LONGEST_LENGTH	    0xffff
#define MAX_EXTENSION_BYTES 512
#define TCP_LENGTH_OFFSET   12
#define TCP_FLAGS_OFFSET    13

/* <linux/icmp.h> pulls in the C library. The same layout serves both versions. */
struct icmphdr {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest;
};

#define ICMP_ECHO_REQUEST_V4 8
#define ICMP_ECHO_REPLY_V4   0
#define ICMP_ECHO_REQUEST_V6 128
#define ICMP_ECHO_REPLY_V6   129

static __always_inline bool is_query_v4(__u8 type)
{
	return type == ICMP_ECHO_REQUEST_V4 || type == ICMP_ECHO_REPLY_V4;
}

static __always_inline bool is_query_v6(__u8 type)
{
	return type == ICMP_ECHO_REQUEST_V6 || type == ICMP_ECHO_REPLY_V6;
}

static __always_inline bool is_extension(__u8 next_header)
{
	return next_header == IPPROTO_HOPOPTS || next_header == IPPROTO_ROUTING ||
	       next_header == IPPROTO_DSTOPTS || next_header == IPPROTO_FRAGMENT;
}

/* Skip hop-by-hop, destination options and routing headers; note a Fragment header (RFC 7915
 * section 5.1). `p->protocol` is the first next-header value and becomes the last one. */
__noinline enum verdict skip_extensions(struct __sk_buff *skb, struct packet *p)
{
	REQUIRE(p, STOP_dropped_internal);

	__u32 offset = p->l3 + sizeof(struct ipv6hdr);
	__u8 next = p->protocol;
	enum verdict stop = GO_ON;
	int i;

	for (i = 0; i < MAX_EXTENSIONS && is_extension(next); i++) {
		__u8 head[8];

		if (bpf_skb_load_bytes(skb, offset, head, sizeof(head)))
			return STOP_dropped_truncated;
		if (p->flags & PACKET_FRAGMENT)
			return STOP_dropped_extension_after_fragment;
		if (next == IPPROTO_FRAGMENT) {
			p->flags |= PACKET_FRAGMENT;
			p->fragment = ((head[2] << 8 | head[3]) >> 3) | (head[3] & 1 ? IPV4_MF : 0);
			p->identification =
				(__u32)head[4] << 24 | head[5] << 16 | head[6] << 8 | head[7];
			offset += 8;
		} else {
			if (next == IPPROTO_ROUTING && head[3] != 0 && !stop) {
				/* segments left: RFC 7915 asks for a parameter problem there, but a
				 * later header may forbid an answer */
				p->error_info = offset + 3 - p->l3;
				stop = STOP_dropped_routing_header;
			}
			offset += (head[1] + 1) * 8;
		}
		next = head[0];
	}
	if (is_extension(next))
		return p->flags & PACKET_FRAGMENT ? STOP_dropped_extension_after_fragment
						  : STOP_dropped_extension_chain;
	p->extensions = offset - p->l3 - sizeof(struct ipv6hdr);
	if (p->extensions > MAX_EXTENSION_BYTES)
		return STOP_dropped_extension_chain;
	if (p->extensions > p->length)
		return STOP_dropped_truncated;
	p->length -= p->extensions;
	p->l4 = offset;
	p->protocol = next;
	return stop;
}

static __always_inline bool is_translatable(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP;
}

static __always_inline bool is_later_fragment(const struct packet *p)
{
	return p->fragment & IPV4_OFFSET_MASK;
}

static __always_inline bool is_fragment(const struct packet *p)
{
	return p->fragment != 0;
}

/* Read ports, TCP flags and ICMP type. `source` and `destination` receive the ports as the packet
 * has them. */
inline_step enum verdict parse_transport(struct __sk_buff *skb, struct packet *p, __be16 *source,
					 __be16 *destination)
{
	__u8 *head;

	switch (p->protocol) {
	case IPPROTO_TCP: {
		if (p->length < sizeof(struct tcphdr))
			return STOP_dropped_truncated;
		head = header_at(skb, p->l4, sizeof(struct tcphdr));
		if (!head)
			return STOP_dropped_truncated;
		p->tcp_flags = head[TCP_FLAGS_OFFSET];
		p->transport_header = (head[TCP_LENGTH_OFFSET] >> 4) * 4;
		break;
	}
	case IPPROTO_UDP:
		if (p->length < sizeof(struct udphdr))
			return STOP_dropped_truncated;
		head = header_at(skb, p->l4, sizeof(struct udphdr));
		if (!head)
			return STOP_dropped_truncated;
		p->transport_header = sizeof(struct udphdr);
		if (!((struct udphdr *)head)->check)
			p->flags |= PACKET_ZERO_CHECKSUM;
		break;
	case IPPROTO_ICMP:
		if (p->length < sizeof(struct icmphdr))
			return STOP_dropped_truncated;
		head = header_at(skb, p->l4, sizeof(struct icmphdr));
		if (!head)
			return STOP_dropped_truncated;
		p->icmp_type = head[0];
		p->icmp_code = head[1];
		*source = *destination = *(__be16 *)(head + 4);
		return GO_ON;
	default:
		return STOP_dropped_unknown_transport;
	}
	*source = *(__be16 *)head;
	*destination = *(__be16 *)(head + 2);
	return GO_ON;
}

/* Read the fixed header. parse_ipv6_rest() and parse_transport() read the rest. */
inline_step enum verdict parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr *ip6 = header_at(skb, ETH_HLEN, sizeof(*ip6));

	if (!ip6)
		return STOP_dropped_truncated;
	if (ip6->version != 6)
		return STOP_dropped_malformed;
	p->client = *(union addr6 *)&ip6->saddr;
	p->remote6 = *(union addr6 *)&ip6->daddr;
	p->l3 = ETH_HLEN;
	p->l4 = ETH_HLEN + sizeof(*ip6);
	p->length = bpf_ntohs(ip6->payload_len);
	p->traffic_class = ip6->priority << 4 | ip6->flow_lbl[0] >> 4;
	p->ttl = ip6->hop_limit;
	p->protocol = ip6->nexthdr;
	return GO_ON;
}

/* Read what follows the addresses, once they are known to be in the prefix. */
inline_step enum verdict parse_ipv6_rest(struct __sk_buff *skb, struct packet *p)
{
	/* A GSO packet of more than 64 KiB (BIG TCP) has no length in its header. From here on,
	 * only the length of its segments counts. */
	bool big = !p->length && skb->gso_size && skb->len > LONGEST_LENGTH;

	if (big)
		p->length = LONGEST_LENGTH;
	if (p->l3 + sizeof(struct ipv6hdr) + p->length > skb->len)
		return STOP_dropped_truncated;
	if (is_extension(p->protocol))
		STEP(skip_extensions(skb, p));
	if (big)
		p->length = LONGEST_LENGTH;
	if (p->protocol == IPPROTO_ICMP)
		return STOP_dropped_unknown_transport; /* ICMPv4 over IPv6 has no meaning */
	if (p->protocol == IPPROTO_ICMPV6)
		p->protocol = IPPROTO_ICMP;
	return is_translatable(p->protocol) ? GO_ON : STOP_dropped_unknown_transport;
}

inline_step enum verdict parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr *ip = header_at(skb, p->l3, sizeof(*ip));
	__u32 header;

	if (!ip)
		return STOP_dropped_truncated;
	header = ip->ihl * 4;
	if (ip->version != 4 || header < sizeof(*ip) || bpf_ntohs(ip->tot_len) < header)
		return STOP_dropped_malformed;
	p->remote = ip->saddr;
	p->pool = ip->daddr;
	p->l4 = p->l3 + header;
	p->extensions = header - sizeof(*ip);
	p->length = bpf_ntohs(ip->tot_len) - header;
	p->traffic_class = ip->tos;
	p->ttl = ip->ttl;
	p->protocol = ip->protocol;
	p->fragment = bpf_ntohs(ip->frag_off);
	if (p->fragment & IPV4_DF)
		p->flags |= PACKET_DF;
	p->fragment &= IPV4_OFFSET_MASK | IPV4_MF;
	if (p->fragment)
		p->flags |= PACKET_FRAGMENT;
	p->identification = bpf_ntohs(ip->id);
	if (p->l3 + header + p->length > skb->len)
		return STOP_dropped_truncated;
	/* IPv6 has no header checksum: a broken header would go on unnoticed. */
	if (header == sizeof(*ip))
		return ipv4_header_checksum(ip) ? STOP_dropped_malformed : GO_ON;
	return (__u16)~sum_bytes(skb, p->l3, header) ? STOP_dropped_malformed : GO_ON;
}

#define OPTION_END	     0
#define OPTION_NOP	     1
#define OPTION_LOOSE_SOURCE  131
#define OPTION_STRICT_SOURCE 137
#define MAX_OPTIONS	     40

/* The offset of the option after the one at `at`; 0 if that is the last one; -1 if it is a source
 * route with hops left. This is a function of its own, so that the verifier, which knows nothing of
 * its result, doesn't follow all combinations of options. */
__noinline int option_after(struct __sk_buff *skb, __u32 at, __u32 end)
{
	__u8 option[3];

	if (at + sizeof(option) > end || bpf_skb_load_bytes(skb, at, option, sizeof(option)))
		return 0;
	if (option[0] == OPTION_END)
		return 0;
	if (option[0] == OPTION_NOP)
		return at + 1;
	if ((option[0] == OPTION_LOOSE_SOURCE || option[0] == OPTION_STRICT_SOURCE) &&
	    option[2] <= option[1]) /* the pointer is within the route */
		return -1;
	return option[1] < 2 ? 0 : at + option[1];
}

/* Refuse a source route with hops left (RFC 7915 section 4.1). Other options are ignored. */
__noinline enum verdict check_options(struct __sk_buff *skb, struct packet *p)
{
	int at, i;

	REQUIRE(p, STOP_dropped_internal);
	at = p->l3 + sizeof(struct iphdr);
	for (i = 0; i < MAX_OPTIONS && at > 0; i++)
		at = option_after(skb, at, p->l4);
	return at < 0 ? STOP_dropped_source_route : GO_ON;
}
