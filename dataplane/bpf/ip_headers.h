/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The IP headers that we write (RFC 7915 sections 4.1 and 5.1), for packets and for those that ICMP
 * errors quote. */
#pragma once

#include "csum.h"
#include "parse.h"

/* A number for IPv4's field: SplitMix64, one sequence for each CPU, which begins where the kernel's
 * generator says. Asking the kernel for each packet takes 40 ns. */
static __always_inline __u16 new_identification(void)
{
	__u32 zero = 0;
	__u64 *state = bpf_map_lookup_elem(&identifications, &zero);
	__u64 mixed;

	if (!state)
		return bpf_get_prandom_u32();
	if (!*state)
		*state = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	*state += 0x9e3779b97f4a7c15;
	mixed = *state;
	mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
	mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
	return mixed >> 48;
}

#define IPV4_MAX_UNMARKED 1260 /* RFC 7915 section 5.1: up to this length, DF is 0 */
#define FRAGMENT_HEADER	  8

static __always_inline __u16 ipv4_fragment_field(const struct packet *p, __u32 total)
{
	if (p->flags & PACKET_FRAGMENT)
		return p->fragment; /* DF=0, also for an atomic fragment */
	return total <= IPV4_MAX_UNMARKED ? 0 : IPV4_DF;
}

/* Headers are written a word at a time: narrower writes that a wider read follows would make the
 * processor wait for them. */
static __always_inline void write_ipv4_header(struct iphdr *ip, const struct config *config,
					      const struct packet *p, __u32 total, __u16 fragment,
					      __u16 identification, __be32 source,
					      __be32 destination)
{
	__u32 tos = config->flags & CONFIG_COPY_TRAFFIC_CLASS ? p->traffic_class : 0;
	__be32 *words = (__be32 *)ip;

	words[0] = bpf_htonl(0x45U << 24 | tos << 16 | (total & 0xffff));
	words[1] = bpf_htonl((__u32)identification << 16 | fragment);
	words[2] = bpf_htonl((__u32)p->ttl << 24 | (__u32)p->protocol << 16);
	words[3] = source;
	words[4] = destination;
	words[2] |= bpf_htonl(bpf_ntohs(ipv4_header_checksum(ip)));
}

static __always_inline void write_ipv6_header(struct ipv6hdr *ip6, const struct config *config,
					      const struct packet *p, __u32 payload, __u8 hop_limit)
{
	__u32 class = config->flags & CONFIG_COPY_TRAFFIC_CLASS ? p->traffic_class : 0;
	__u32 next = p->protocol == IPPROTO_ICMP ? IPPROTO_ICMPV6 : p->protocol;
	__be32 *words = (__be32 *)ip6;

	words[0] = bpf_htonl(6U << 28 | class << 20);
	words[1] = bpf_htonl((payload & 0xffff) << 16 | next << 8 | hop_limit);
	__builtin_memcpy(words + 2, &p->remote6, sizeof(p->remote6));
	__builtin_memcpy(words + 6, &p->client, sizeof(p->client));
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
