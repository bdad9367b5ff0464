/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The IP headers that we write (RFC 7915 sections 4.1 and 5.1), for packets and for those that ICMP
 * errors quote. */
#pragma once

#include "csum.h"
#include "parse.h"

#define IPV4_MAX_UNMARKED 1260 /* RFC 7915 section 5.1: up to this length, DF is 0 */
#define FRAGMENT_HEADER	  8

static __always_inline __u16 ipv4_fragment_field(const struct packet *p, __u32 total)
{
	if (p->flags & PACKET_FRAGMENT)
		return p->fragment; /* DF=0, also for an atomic fragment */
	return total <= IPV4_MAX_UNMARKED ? 0 : IPV4_DF;
}

/* Write all fields but identification, addresses and checksum. */
static __always_inline void begin_ipv4_header(struct iphdr *ip, const struct config *config,
					      const struct packet *p, __u32 total, __u16 fragment)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = config->flags & CONFIG_COPY_TRAFFIC_CLASS ? p->traffic_class : 0;
	ip->tot_len = bpf_htons(total);
	ip->frag_off = bpf_htons(fragment);
	ip->ttl = p->ttl;
	ip->protocol = p->protocol;
}

static __always_inline void finish_ipv4_header(struct iphdr *ip, __u16 identification,
					       __be32 source, __be32 destination)
{
	ip->id = bpf_htons(identification);
	ip->saddr = source;
	ip->daddr = destination;
	ip->check = ipv4_header_checksum(ip);
}

static __always_inline void write_ipv6_header(struct ipv6hdr *ip6, const struct config *config,
					      const struct packet *p, __u32 payload, __u8 hop_limit)
{
	__builtin_memset(ip6, 0, sizeof(*ip6));
	ip6->version = 6;
	if (config->flags & CONFIG_COPY_TRAFFIC_CLASS) {
		ip6->priority = p->traffic_class >> 4;
		ip6->flow_lbl[0] = p->traffic_class << 4;
	}
	ip6->payload_len = bpf_htons(payload);
	ip6->nexthdr = p->protocol == IPPROTO_ICMP ? IPPROTO_ICMPV6 : p->protocol;
	ip6->hop_limit = hop_limit;
	__builtin_memcpy(&ip6->saddr, &p->remote6, sizeof(p->remote6));
	__builtin_memcpy(&ip6->daddr, &p->client, sizeof(p->client));
}

/* Write the Fragment header of `p`, and its type into `ip6`, which is in front of it. */
static __always_inline void write_fragment_header(__u8 *head, struct ipv6hdr *ip6,
						  const struct packet *p)
{
	__be16 offset =
		bpf_htons((p->fragment & IPV4_OFFSET_MASK) << 3 | (p->fragment & IPV4_MF ? 1 : 0));

	head[0] = ip6->nexthdr;
	head[1] = 0;
	__builtin_memcpy(head + 2, &offset, sizeof(offset));
	head[4] = head[5] = 0;
	head[6] = p->identification >> 8;
	head[7] = p->identification;
	ip6->nexthdr = IPPROTO_FRAGMENT;
}
