/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* RST for a segment of a connection that we no longer know. Its application fails at once and
 * connects again; without the RST it would wait for many minutes. */
#pragma once

#include "respond.h"

#define TCP_SIZE 20

struct tcp_reset {
	__be16 source, destination;
	__be32 sequence, acknowledgement;
	__u8 offset, flags;
	__be16 window, checksum, urgent;
};

/* RFC 9293 section 3.5.2: the RST has the numbers that the other end would have sent. */
static __always_inline void fill_reset(struct tcp_reset *reset, const struct tcp_reset *segment,
				       const struct packet *p)
{
	__u32 length = p->length - p->transport_header;

	reset->source = segment->destination;
	reset->destination = segment->source;
	reset->offset = TCP_SIZE / 4 << 4;
	reset->flags = TCP_FLAG_RST_BIT;
	if (segment->flags & TCP_FLAG_ACK_BIT) {
		reset->sequence = segment->acknowledgement;
		return;
	}
	if (segment->flags & TCP_FLAG_FIN_BIT)
		length++;
	reset->acknowledgement = bpf_htonl(bpf_ntohl(segment->sequence) + length);
	reset->flags |= TCP_FLAG_ACK_BIT;
}

/* Turn the packet into an RST to its sender. False if that is impossible or not allowed. */
__noinline int respond_reset(struct __sk_buff *skb, struct packet *p)
{
	struct {
		struct ipv6hdr ip6;
		struct tcp_reset tcp;
	} head = {};
	struct tcp_reset segment;
	__u32 length = sizeof(head);
	__u16 sum;
	__s64 whole;

	if (!p || p->l3 != ETH_HLEN || p->l4 != ETH_HLEN + sizeof(struct ipv6hdr) ||
	    is_fragment(p) || source6_is_illegal(&p->client) || p->tcp_flags & TCP_FLAG_RST_BIT)
		return 0;
	if (!may_send(RESETS)) {
		count(DIR_6TO4, COUNT_resets_suppressed);
		return 0;
	}
	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &segment, sizeof(segment)))
		return 0;
	if ((skb->len != ETH_HLEN + length || skb->gso_size) &&
	    bpf_skb_change_tail(skb, ETH_HLEN + length, 0))
		return 0;
	fill_reset(&head.tcp, &segment, p);
	head.ip6.version = 6;
	head.ip6.payload_len = bpf_htons(TCP_SIZE);
	head.ip6.nexthdr = IPPROTO_TCP;
	head.ip6.hop_limit = ERROR_HOPS;
	__builtin_memcpy(&head.ip6.saddr, &p->remote6, sizeof(p->remote6));
	__builtin_memcpy(&head.ip6.daddr, &p->client, sizeof(p->client));
	p->length = TCP_SIZE;
	whole = bpf_csum_diff(NULL, 0, (__be32 *)&head.tcp, TCP_SIZE, 0);
	/* The program can't see whether a device is still to complete the checksum. If so, the
	 * packet must have only the sum of the pseudo-header, and the next helper leaves that
	 * alone. If not, the helper turns it into the complete checksum. */
	sum = fold(pseudo6_sum_of(p, IPPROTO_TCP));
	head.tcp.checksum = sum;
	if (bpf_skb_store_bytes(skb, ETH_HLEN, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM))
		return 0;
	whole = fold(whole + sum + sum);
	return !bpf_l4_csum_replace(
		skb, ETH_HLEN + sizeof(struct ipv6hdr) + offsetof(struct tcp_reset, checksum), 0,
		whole, 0);
}
