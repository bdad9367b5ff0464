/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Translation from one IP version to the other (RFC 7915), for packets that have ports or an
 * identifier and for their later fragments. struct packet has the values to write. */
#pragma once

#include <stddef.h>

#include "ip_headers.h"
#include "replace_port.h"
#include "rfc6052.h"

#define KEEP_GSO BPF_F_ADJ_ROOM_FIXED_GSO

/* Write the Ethernet type and the IP header behind it, whose `length` is a constant. */
static __always_inline int write_ip(struct __sk_buff *skb, const struct packet *p, __be16 type,
				    const void *head, __u32 length)
{
	const __be32 *from = head;
	__be16 *to;
	__be32 *words;
	__u32 i;

	if (p->l3 != ETH_HLEN)
		return bpf_skb_store_bytes(skb, p->l3, head, length, 0);
	to = header_at(skb, ETH_HLEN - sizeof(type), sizeof(type) + length);
	if (!to)
		return -1;
	*to = type;
	words = (__be32 *)(to + 1);
#pragma unroll
	for (i = 0; i < length / sizeof(*words); i++)
		words[i] = from[i];
	return 0;
}

/* Whether the kernel has a running sum of the packet (CHECKSUM_COMPLETE), which must be kept right.
 */
static __always_inline bool is_summed(struct __sk_buff *skb)
{
	return bpf_csum_update(skb, 0) >= 0;
}

static __always_inline void write_ether_type(struct __sk_buff *skb, const struct packet *p,
					     __be16 type)
{
	if (p->l3 == ETH_HLEN)
		bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0);
}

inline_step enum verdict translate_transport(struct __sk_buff *skb, struct packet *p,
					     struct port_change *port)
{
	__u32 l4 = p->l4;

	if (p->protocol == IPPROTO_TCP)
		return replace_port(skb, l4, offsetof(struct tcphdr, check), 0, port);
	return replace_port(skb, l4, offsetof(struct udphdr, check), BPF_F_MARK_MANGLED_0, port);
}

/* Echo request or reply: replace type and identifier, and add or remove the pseudo-header. */
inline_step enum verdict translate_echo(struct __sk_buff *skb, struct packet *p, __s64 change,
					__u8 type, __be16 identifier, __be16 new)
{
	__u32 checksum = p->l4 + offsetof(struct icmphdr, checksum);
	__be16 was = bpf_htons(p->icmp_type << 8 | p->icmp_code);
	__be16 becomes = bpf_htons(type << 8);

	if (bpf_l4_csum_replace(skb, checksum, 0, change, BPF_F_PSEUDO_HDR) ||
	    replace_field(skb, p->l4, checksum, was, becomes, 0) ||
	    replace_field(skb, p->l4 + 4, checksum, identifier, new, 0))
		return STOP_dropped_internal;
	return GO_ON;
}

/* Replace the IP header by an IPv4 header, and the Ethernet type with it. What the kernel has
 * summed is not right until update_sum_to_ipv4(). */
inline_step enum verdict exchange_to_ipv4(struct __sk_buff *skb, const struct config *config,
					  struct packet *p)
{
	__u32 total = sizeof(struct iphdr) + p->length;
	__u16 fragment, identification = 0;
	struct iphdr ip;

	if (total > LONGEST_LENGTH) {
		if (!skb->gso_size || p->protocol != IPPROTO_TCP)
			return STOP_dropped_too_big;
		total = 0; /* BIG TCP: the kernel knows the length itself */
	}
	if (p->extensions) {
		if (bpf_skb_adjust_room(skb, -(__s32)p->extensions, BPF_ADJ_ROOM_NET, KEEP_GSO))
			return STOP_dropped_internal;
	}
	if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0))
		return STOP_dropped_internal;
	/* The length of a segment counts, not that of the GSO packet: routers see the segments' DF.
	 */
	fragment = ipv4_fragment_field(p, wire_length(skb, p, sizeof(struct iphdr)));
	if (p->flags & PACKET_FRAGMENT)
		identification = p->identification;
	else if (!fragment)
		identification = new_identification();
	write_ipv4_header(&ip, config, p, total, fragment, identification, p->pool, p->remote);
	if (write_ip(skb, p, bpf_htons(ETH_P_IP), &ip, sizeof(ip)))
		return STOP_dropped_internal;
	p->l4 = p->l3 + sizeof(ip);
	return GO_ON;
}

/* Take the IPv6 header out of what the kernel has summed. */
static __always_inline void update_sum_to_ipv4(struct __sk_buff *skb, struct packet *p)
{
	if (is_summed(skb)) {
		/* bpf_skb_change_proto has taken 20 bytes out of the sum. The other 20 bytes of the
		 * IPv6 header are the end of its addresses. A complete IPv4 header adds up to zero.
		 */
		__s64 gone = bpf_csum_diff(&p->client.words[3], 5 * sizeof(__be32), NULL, 0, 0);

		bpf_csum_update(skb, gone);
	}
}

inline_step enum verdict header_to_ipv4(struct __sk_buff *skb, const struct config *config,
					struct packet *p)
{
	STEP(exchange_to_ipv4(skb, config, p));
	update_sum_to_ipv4(skb, p);
	return GO_ON;
}

inline_step enum verdict to_ipv4(struct __sk_buff *skb, const struct config *config,
				 struct packet *p)
{
	struct port_change port = {.old = p->client_port, .new = p->pool_port};

	STEP(exchange_to_ipv4(skb, config, p));
	if (!is_later_fragment(p) && p->protocol == IPPROTO_ICMP)
		STEP(translate_echo(skb, p, ~pseudo6_sum(p) & 0xffffffff,
				    p->icmp_type == ICMP_ECHO_REQUEST_V6 ? ICMP_ECHO_REQUEST_V4
									 : ICMP_ECHO_REPLY_V4,
				    p->client_port, p->pool_port));
	else if (!is_later_fragment(p)) {
		port.addresses = addresses_to_ipv4(p);
		STEP(translate_transport(skb, p, &port));
	}
	if (!port.is_completed)
		update_sum_to_ipv4(skb, p);
	return GO_ON;
}

/* Compute the checksum of a UDP packet that came without one. IPv6 requires it (RFC 7915 section
 * 4.5). */
__noinline enum verdict fill_udp_checksum(struct __sk_buff *skb, struct packet *p)
{
	__be32 rest[2];
	__s64 sum;
	__u16 check;

	REQUIRE(p, STOP_dropped_internal);
	sum = sum_bytes(skb, p->l4, p->length);
	if (sum < 0)
		return STOP_dropped_truncated;
	rest[0] = bpf_htonl(p->length);
	rest[1] = bpf_htonl(IPPROTO_UDP);
	sum += bpf_csum_diff(NULL, 0, rest, sizeof(rest), 0);
	sum += bpf_csum_diff(NULL, 0, (__be32 *)&p->client, 2 * sizeof(union addr6), 0);
	check = ~fold(sum);
	if (!check)
		check = 0xffff;
	if (bpf_skb_store_bytes(skb, p->l4 + offsetof(struct udphdr, check), &check, sizeof(check),
				BPF_F_RECOMPUTE_CSUM))
		return STOP_dropped_internal;
	return GO_ON;
}

/* The hop limit on the fast path, where nothing else decrements it. send_ipv6 corrects it for
 * packets that go through the kernel. */
static __always_inline __u8 hop_limit_of(const struct packet *p)
{
	return p->flags & PACKET_FORWARDED ? p->ttl : p->ttl - 1;
}

/* Replace the IP header by an IPv6 header, and the Ethernet type with it. What the kernel has
 * summed is not right until update_sum_to_ipv6(), which needs the sum of the IPv4 options,
 * `options`. */
inline_step enum verdict exchange_to_ipv6(struct __sk_buff *skb, const struct config *config,
					  struct packet *p, __s64 *options)
{
	__u32 fragment_header = p->flags & PACKET_FRAGMENT ? FRAGMENT_HEADER : 0;
	struct ipv6hdr ip6;

	if (p->extensions) { /* IPv4 options */
		*options = sum_bytes(skb, p->l3 + sizeof(struct iphdr), p->extensions);
		if (*options < 0)
			return STOP_dropped_truncated;
		if (bpf_skb_adjust_room(skb, -(__s32)p->extensions, BPF_ADJ_ROOM_NET, KEEP_GSO))
			return STOP_dropped_internal;
	}
	if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0))
		return STOP_dropped_internal;
	if (fragment_header) {
		if (bpf_skb_adjust_room(skb, FRAGMENT_HEADER, BPF_ADJ_ROOM_NET, KEEP_GSO))
			return STOP_dropped_internal;
	}
	write_ipv6_header(&ip6, config, p, p->length + fragment_header, hop_limit_of(p));
	if (fragment_header) {
		__u8 more[FRAGMENT_HEADER];

		write_fragment_header(more, &ip6, p);
		if (bpf_skb_store_bytes(skb, p->l3 + sizeof(ip6), more, sizeof(more),
					BPF_F_RECOMPUTE_CSUM))
			return STOP_dropped_internal;
	}
	if (write_ip(skb, p, bpf_htons(ETH_P_IPV6), &ip6, sizeof(ip6)))
		return STOP_dropped_internal;
	p->l4 = p->l3 + sizeof(ip6) + fragment_header;
	return GO_ON;
}

/* Have the kernel's sum of the packet, if there is one, include the IPv6 header. */
static __always_inline void update_sum_to_ipv6(struct __sk_buff *skb, const struct packet *p,
					       __s64 options)
{
	struct ipv6hdr ip6;

	if (!is_summed(skb) || bpf_skb_load_bytes(skb, p->l3, &ip6, sizeof(ip6)))
		return;
	/* The IPv4 header with its options adds up to zero, so without them it adds up to minus
	 * their sum. */
	bpf_csum_update(skb, bpf_csum_diff(NULL, 0, (__be32 *)&ip6, sizeof(ip6), options));
}

inline_step enum verdict header_to_ipv6(struct __sk_buff *skb, const struct config *config,
					struct packet *p)
{
	__s64 options = 0;

	STEP(exchange_to_ipv6(skb, config, p, &options));
	update_sum_to_ipv6(skb, p, options);
	return GO_ON;
}

/* Translate the transport header to IPv6. The IP header may still be of either version. */
inline_step enum verdict transport_to_ipv6(struct __sk_buff *skb, struct packet *p,
					   bool *is_completed)
{
	struct port_change port = {.at = 2, .old = p->pool_port, .new = p->client_port};

	if (p->protocol == IPPROTO_ICMP)
		return translate_echo(skb, p, pseudo6_sum(p),
				      p->icmp_type == ICMP_ECHO_REQUEST_V4 ? ICMP_ECHO_REQUEST_V6
									   : ICMP_ECHO_REPLY_V6,
				      p->pool_port, p->client_port);
	if (p->flags & PACKET_ZERO_CHECKSUM) {
		if (bpf_skb_store_bytes(skb, p->l4 + offsetof(struct udphdr, dest), &p->client_port,
					sizeof(p->client_port), BPF_F_RECOMPUTE_CSUM))
			return STOP_dropped_internal;
		return fill_udp_checksum(skb, p);
	}
	port.addresses = addresses_to_ipv6(p);
	STEP(translate_transport(skb, p, &port));
	*is_completed = port.is_completed;
	return GO_ON;
}

inline_step enum verdict to_ipv6(struct __sk_buff *skb, const struct config *config,
				 struct packet *p)
{
	bool is_completed = false;
	__s64 options = 0;

	STEP(exchange_to_ipv6(skb, config, p, &options));
	if (!is_later_fragment(p))
		STEP(transport_to_ipv6(skb, p, &is_completed));
	if (!is_completed)
		update_sum_to_ipv6(skb, p, options);
	return GO_ON;
}
