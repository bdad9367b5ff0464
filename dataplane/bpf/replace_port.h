/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ports, and the checksum over them. Each call of one of the kernel's helpers costs a packet as
 * much as a hundred instructions here. */
#pragma once

#include <stddef.h>

#include "csum.h"
#include "parse.h"

/* Replace a 16-bit field of the transport header, and update the checksum over it. */
static __always_inline int replace_field(struct __sk_buff *skb, __u32 field, __u32 checksum,
					 __be16 old, __be16 new, __u64 flags)
{
	__be16 *to;

	if (old == new)
		return 0;
	if (bpf_l4_csum_replace(skb, checksum, old, new, flags | sizeof(new)))
		return -1;
	to = header_at(skb, field, sizeof(new));
	if (!to)
		return -1;
	*to = new;
	return 0;
}

/* A checksum that stands for `sum`. In UDP (`flags`), 0 would say that there is none. */
static __always_inline __sum16 checksum_of(__u16 sum, __u64 flags)
{
	return sum || !flags ? sum : 0xffff;
}

/* The port in a transport header, and how the header changes. */
struct port_change {
	__u32 at; /* offset in the header */
	__be16 old, new;
	__s64 addresses;   /* what they add to the checksum */
	bool is_completed; /* out: the device completes the checksum, and the kernel has no sum */
};

/* Replace a port, and update the checksum at `at` in the transport header, a constant.
 *
 * The helper is asked once, for the addresses. What it has done tells whether the checksum is that
 * of the whole packet, or only of its pseudo-header because the device has yet to complete it: the
 * helper subtracts from the one, and adds to the other. A port counts in the first one only. Where
 * both come to the same, or the helper has done nothing, it is asked for the port as well. */
static __always_inline enum verdict replace_port(struct __sk_buff *skb, __u32 l4, __u32 at,
						 __u64 flags, struct port_change *port)
{
	__u16 before, after, whole, pseudo;
	__u8 *head;

	barrier_var(skb); /* or the compiler points into the context, which the verifier refuses */
	head = header_at(skb, l4, at + sizeof(after));
	if (!head)
		return STOP_dropped_internal;
	before = *(__sum16 *)(head + at);
	if (bpf_l4_csum_replace(skb, l4 + at, 0, port->addresses, BPF_F_PSEUDO_HDR | flags))
		return STOP_dropped_internal;
	head = header_at(skb, l4, at + sizeof(after));
	if (!head)
		return STOP_dropped_internal;
	after = *(__sum16 *)(head + at);
	/* as the kernel computes them, in 32 bits */
	whole = checksum_of(~fold((__u64)(__u32)port->addresses + ~(__u32)before), flags);
	pseudo = checksum_of(fold((__u64)(__u32)port->addresses + before), flags);
	if (whole == pseudo || (after != whole && after != pseudo))
		return replace_field(skb, l4 + port->at, l4 + at, port->old, port->new, flags)
			       ? STOP_dropped_internal
			       : GO_ON;
	port->is_completed = after == pseudo;
	if (after == whole)
		*(__sum16 *)(head + at) = checksum_of(
			~fold((__u64) ~(__u32)after + (__u16)~port->old + port->new), flags);
	*(__be16 *)(head + port->at) = port->new;
	return GO_ON;
}
