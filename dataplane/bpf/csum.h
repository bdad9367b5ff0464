/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Checksums. Updates are incremental, so that a wrong checksum stays wrong (RFC 7915). They go
 * through the kernel's helpers, which know what the device still has to complete (CHECKSUM_PARTIAL,
 * as on every veth) or has already summed (CHECKSUM_COMPLETE). */
#pragma once

#include "basics.h"

#define CHUNK	   SCRATCH_BYTES
#define MAX_CHUNKS 129 /* 64 KiB and the remainder */

struct pseudo6 {
	union addr6 source, destination;
	__be32 length, next_header;
};

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The checksum of an IPv4 header without options. 0 if the header has its checksum and it is right.
 */
static __always_inline __u16 ipv4_header_checksum(const struct iphdr *ip)
{
	const __u32 *words = (const __u32 *)ip;
	__u64 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < 5; i++)
		sum += words[i];
	return ~fold(sum);
}

/* The sum of the IPv4 addresses of `p` minus the sum of its IPv6 addresses, or the reverse. It is
 * computed here because bpf_csum_diff would copy the addresses first. */
static __always_inline __s64 addresses_changed(const struct packet *p, __u32 ipv4, __u32 ipv6)
{
	__u64 sum = (__u64)(p->pool ^ ipv4) + (p->remote ^ ipv4);
	int i;

#pragma unroll
	for (i = 0; i < 4; i++)
		sum += (__u64)(p->client.words[i] ^ ipv6) + (p->remote6.words[i] ^ ipv6);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* What to add to the transport checksum when the addresses become IPv4, or IPv6. */
static __always_inline __s64 addresses_to_ipv4(const struct packet *p)
{
	return addresses_changed(p, 0, ~0U); /* subtracting is adding the complement */
}

static __always_inline __s64 addresses_to_ipv6(const struct packet *p)
{
	return addresses_changed(p, ~0U, 0);
}

/* The sum over the IPv6 pseudo-header (RFC 8200 section 8.1). */
static __always_inline __s64 pseudo6_sum_of(struct packet *p, __u8 next_header)
{
	__be32 rest[2] = {bpf_htonl(p->length), bpf_htonl(next_header)};
	__s64 sum = bpf_csum_diff(NULL, 0, (__be32 *)&p->client, 2 * sizeof(union addr6), 0);

	return bpf_csum_diff(NULL, 0, rest, sizeof(rest), sum);
}

/* The same for ICMPv6. ICMPv4 has no pseudo-header. */
static __always_inline __s64 pseudo6_sum(struct packet *p)
{
	return pseudo6_sum_of(p, IPPROTO_ICMPV6);
}

/* The sum of `length` bytes at `offset`, or a negative number on failure. It reads all of them, so
 * it isn't for common packets. */
__noinline __s64 sum_bytes(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	__u32 zero = 0;
	struct scratch *chunk = bpf_map_lookup_elem(&scratch, &zero);
	__u64 sum = 0;
	int i;

	if (!chunk)
		return -1;
	for (i = 0; i < MAX_CHUNKS && length >= CHUNK; i++) {
		if (bpf_skb_load_bytes(skb, offset, chunk->bytes, CHUNK))
			return -1;
		sum = fold(bpf_csum_diff(NULL, 0, (__be32 *)chunk->bytes, CHUNK, sum));
		offset += CHUNK;
		length -= CHUNK;
	}
	if (length >= CHUNK)
		return -1;
	if (!length)
		return sum;
	__builtin_memset(chunk->bytes, 0, CHUNK); /* pads the end to a multiple of four bytes */
	if (!within(&length, CHUNK - 1) || bpf_skb_load_bytes(skb, offset, chunk->bytes, length))
		return -1;
	return fold(bpf_csum_diff(NULL, 0, (__be32 *)chunk->bytes, CHUNK, sum));
}
