/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every step may ask for that has no state: counters, bytes of the packet. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "maps_translation.h"
#include "packet.h"
#include "verdict.h"
#include "verifier.h"

#define MAX_HEADER_OFFSET 2048 /* longest link header, IPv6 header and chain of extensions */

static __always_inline struct counters *counters_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline void count_at(struct counters *here, enum direction direction,
				     enum counter which)
{
	__u32 index = which;

	if (!exceeds(index, COUNTER_COUNT - 1))
		here->value[direction][index]++;
}

/* Count the reason why a packet's path has ended. */
static __always_inline void count_stop(struct counters *here, enum direction direction,
				       enum verdict stop)
{
	count_at(here, direction, stop_counter(stop));
}

/* For the slow paths, which hold no pointer to the counters. */
static __always_inline void count(__u8 direction, enum counter which)
{
	struct counters *here = counters_here();

	if (here)
		count_at(here, direction == DIR_6TO4 ? DIR_6TO4 : DIR_4TO6, which);
}

/* `length` bytes at `offset`, readable and writable in place, or NULL if the packet is too short.
 */
static __always_inline void *header_at(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	void *data, *end;

	if (!__builtin_constant_p(offset) && exceeds(offset, MAX_HEADER_OFFSET))
		return NULL;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + offset + length <= end)
		return data + offset;
	if (bpf_skb_pull_data(skb, offset + length))
		return NULL;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	return data + offset + length <= end ? data + offset : NULL;
}
