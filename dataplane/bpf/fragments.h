/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments (RFC 6146 section 3.4). The first one has the ports; what it led to is remembered for
 * the others. Those that come before it are held, a few for each packet and few in all, and sent
 * round again once it has come. Nothing is reassembled. */
#pragma once

#include "session.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct held);
	__uint(max_entries, 1);
} holding SEC(".maps");

static __always_inline void fragment_key_of(const struct packet *p, struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	if (p->direction == DIR_6TO4) {
		key->source = p->client;
		key->destination = p->remote6;
	} else {
		key->source.words[3] = p->remote;
		key->destination.words[3] = p->pool;
	}
	key->identification = p->identification;
	key->protocol = p->protocol;
	key->direction = p->direction;
}

/* What is known of the packet that a fragment belongs to: its fate, or 0. */
__noinline int fragment_fate(struct packet *p)
{
	struct fragment_key key;
	struct fragment *known;

	if (!p)
		return 0;
	fragment_key_of(p, &key);
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known || known->expires <= now_seconds())
		return 0;
	if (p->direction == DIR_6TO4) {
		p->pool = known->pool;
	} else {
		p->client = known->client;
		p->client_port = known->client_port;
	}
	if (known->hairpin)
		p->flags |= PACKET_HAIRPIN;
	return known->fate;
}

__noinline int remember_fragment(struct packet *p, int fate)
{
	struct fragment known = {};
	struct fragment_key key;
	struct fragment *before;
	struct config *config;
	__u32 slot;

	if (!p)
		return COUNT_dropped_internal;
	config = active_config(&slot);
	if (!config)
		return COUNT_dropped_not_configured;
	fragment_key_of(p, &key);
	known.client = p->client;
	known.client_port = p->client_port;
	known.pool = p->pool;
	known.fate = fate;
	known.hairpin = !!(p->flags & PACKET_HAIRPIN);
	before = bpf_map_lookup_elem(&fragments, &key);
	if (before && before->expires > now_seconds())
		known.released = before->released;
	known.expires = expiry(config, TIMER_FRAGMENT, now_seconds());
	return bpf_map_update_elem(&fragments, &key, &known, BPF_ANY) ? COUNT_dropped_internal
								      : GO_ON;
}

/* Keep a fragment whose first one isn't here yet. */
__noinline int hold_fragment(struct __sk_buff *skb, struct packet *p)
{
	struct held_key key = {};
	struct config *config;
	struct held *copy;
	__u32 slot, zero = 0, length;
	int i;

	if (!p)
		return COUNT_dropped_internal;
	config = active_config(&slot);
	copy = bpf_map_lookup_elem(&holding, &zero);
	if (!config || !copy)
		return COUNT_dropped_internal;
	length = p->l4 - p->l3 + p->length;
	if (!within(&length, HELD_BYTES))
		return COUNT_dropped_fragment_buffer_full;
	if (bpf_skb_load_bytes(skb, p->l3, copy->bytes, length))
		return COUNT_dropped_truncated;
	copy->length = length;
	copy->direction = p->direction;
	copy->expires = expiry(config, TIMER_FRAGMENT, now_seconds());
	fragment_key_of(p, &key.packet);
	for (i = 0; i < HELD_PER_PACKET; i++) {
		key.index = i;
		if (!bpf_map_update_elem(&held, &key, copy, BPF_NOEXIST))
			break;
	}
	if (i == HELD_PER_PACKET)
		return COUNT_dropped_fragment_buffer_full;
	/* The first fragment may have come meanwhile, on another CPU, and found nothing held. */
	if (fragment_fate(p)) {
		if (!bpf_map_delete_elem(&held, &key))
			return GO_ON;
	}
	return COUNT_held;
}

/* Send round again this first fragment, and after it those that had to wait for it. */
__noinline int release_fragments(struct __sk_buff *skb, struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	__u64 flags = 0;
	struct held_key key = {};
	struct fragment *known;
	int i;

	if (!p)
		return GO_ON;
	if (p->direction == DIR_4TO6)
		flags = BPF_F_INGRESS;
	fragment_key_of(p, &key.packet);
	if (!bpf_map_lookup_elem(&held, &key))
		return GO_ON;
	known = bpf_map_lookup_elem(&fragments, &key.packet);
	if (!known || known->released)
		return GO_ON; /* this is the packet's second time round */
	known->released = 1;
	if (bpf_clone_redirect(skb, ifindex, flags))
		return COUNT_dropped_internal;
	for (i = 0; i < HELD_PER_PACKET; i++) {
		struct held *waiting;
		__u32 length;

		key.index = i;
		waiting = bpf_map_lookup_elem(&held, &key);
		if (!waiting)
			continue;
		length = waiting->length;
		if (within(&length, HELD_BYTES) && !bpf_skb_change_tail(skb, p->l3 + length, 0) &&
		    !bpf_skb_store_bytes(skb, p->l3, waiting->bytes, length, BPF_F_RECOMPUTE_CSUM))
			bpf_clone_redirect(skb, ifindex, flags);
		bpf_map_delete_elem(&held, &key);
	}
	return COUNT_held; /* counted when they come round */
}
