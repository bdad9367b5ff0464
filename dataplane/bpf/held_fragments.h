/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments that arrive before the first fragment of their packet (RFC 6146 section 3.4). They are
 * held, a limited number per packet and in total, and are sent through the program again once the
 * first one has arrived. */
#pragma once

#include "fragments.h"

struct bpf_map;

/* How many bytes of a fragment of `length` are in `part`; 0 past its end. */
static __always_inline __u32 part_length(__u32 length, __u32 part)
{
	__u32 at = part * HELD_BYTES;

	if (length <= at)
		return 0;
	return length - at < HELD_BYTES ? length - at : HELD_BYTES;
}

/* Delete a held fragment that the caller has taken over. Part 0 is deleted last: as long as it
 * exists, nobody uses its index. */
static __always_inline void drop_held(struct held_key *key)
{
	int part;

	for (part = HELD_PARTS - 1; part >= 0; part--) {
		key->part = part;
		bpf_map_delete_elem(&held, key);
	}
}

static long drop_expired_held(struct bpf_map *map, const struct held_key *key, struct held *waiting,
			      __u32 *now)
{
	__u8 direction = waiting->direction;
	struct held_key name = *key;

	(void)map;
	if (name.part || !take_over(&waiting->expires, *now, false))
		return 0;
	drop_held(&name);
	count(direction, COUNT_received);
	count(direction, COUNT_dropped_fragment_expired);
	return 0;
}

/* The buffer is full: drop the fragments that have expired. This runs at most once a second,
 * because expiries are whole seconds and a flood of early fragments must not cost more than that.
 */
__noinline bool make_room_for_held(__u32 now)
{
	struct shared *all = all_shared();
	__u32 seen;

	if (!all)
		return false;
	seen = *(volatile __u32 *)&all->held_swept;
	if (seen == now || __sync_val_compare_and_swap(&all->held_swept, seen, now) != seen)
		return false;
	bpf_for_each_map_elem(&held, drop_expired_held, &now, 0);
	return true;
}

static __always_inline int load_part(struct __sk_buff *skb, const struct packet *p,
				     struct held *copy, __u32 part)
{
	__u32 length = part_length(copy->length, part);

	if (!within(&length, HELD_BYTES))
		return -1;
	return bpf_skb_load_bytes(skb, p->l3 + part * HELD_BYTES, copy->bytes, length);
}

/* Hold a fragment whose first fragment hasn't arrived yet. */
__noinline enum verdict hold_fragment(struct __sk_buff *skb, struct packet *p)
{
	struct held_key key = {};
	struct config *config;
	struct held *copy, *complete;
	__u32 zero = 0;
	int i;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	copy = bpf_map_lookup_elem(&holding, &zero);
	if (!config || !copy)
		return STOP_dropped_internal;
	copy->length = p->l4 - p->l3 + p->length;
	copy->direction = p->direction;
	copy->expires = 0;
	if (copy->length > HELD_PARTS * HELD_BYTES)
		return STOP_dropped_fragment_buffer_full;
	if (load_part(skb, p, copy, 0))
		return STOP_dropped_truncated;
	fragment_key_of(p, &key.packet);
	for (i = 0; i < HELD_PER_PACKET; i++) {
		int error;

		key.index = i;
		error = bpf_map_update_elem(&held, &key, copy, BPF_NOEXIST);
		if (error == -E2BIG && make_room_for_held(now_seconds()))
			error = bpf_map_update_elem(&held, &key, copy, BPF_NOEXIST);
		if (!error)
			break;
	}
	if (i == HELD_PER_PACKET)
		return STOP_dropped_fragment_buffer_full;
	complete = bpf_map_lookup_elem(&held, &key);
	for (i = 1; i < HELD_PARTS && part_length(copy->length, i); i++) {
		key.part = i;
		if (load_part(skb, p, copy, i) ||
		    bpf_map_update_elem(&held, &key, copy, BPF_NOEXIST)) {
			drop_held(&key);
			return STOP_dropped_fragment_buffer_full;
		}
	}
	if (!complete)
		return STOP_dropped_internal;
	*(volatile __u32 *)&complete->expires = expiry(config, TIMER_FRAGMENT, now_seconds());
	/* The first fragment may have arrived on another CPU meanwhile and found nothing held. */
	if (fragment_fate(p) != FRAGMENT_UNKNOWN && take_over(&complete->expires, 0, true)) {
		drop_held(&key);
		return GO_ON;
	}
	return STOP_held;
}

/* Decide about a fragment without ports. STOP_held: it waits for the first fragment. */
__noinline enum verdict later_fragment(struct __sk_buff *skb, struct packet *p)
{
	enum fragment_fate fate = fragment_fate(p);

	if (fate == FRAGMENT_UNKNOWN) {
		STEP(hold_fragment(skb, p));
		fate = fragment_fate(p);
	}
	if (fate == FRAGMENT_PASS)
		return STOP_passed;
	return fate == FRAGMENT_TRANSLATE ? GO_ON : STOP_dropped_fragment_unexpected;
}

/* Replace the contents of the packet, a first fragment, by the fragment that is held at `index`. */
__noinline int restore_held(struct __sk_buff *skb, struct packet *p, __u32 index)
{
	struct held_key key = {.index = index};
	struct held *kept;
	__u32 whole, length;
	int i;

	REQUIRE(p, -1);
	fragment_key_of(p, &key.packet);
	kept = bpf_map_lookup_elem(&held, &key);
	if (!kept)
		return -1;
	whole = kept->length;
	if (!whole || whole > HELD_PARTS * HELD_BYTES || bpf_skb_change_tail(skb, p->l3 + whole, 0))
		return -1;
	for (i = 0; i < HELD_PARTS; i++) {
		length = part_length(whole, i);
		if (!within(&length, HELD_BYTES))
			break;
		key.part = i;
		kept = bpf_map_lookup_elem(&held, &key);
		if (!kept || bpf_skb_store_bytes(skb, p->l3 + i * HELD_BYTES, kept->bytes, length,
						 BPF_F_RECOMPUTE_CSUM))
			return -1;
	}
	return 0;
}

/* Send a clone of the packet to the hook where it is now. The program counts it there. */
static __always_inline bool send_round(struct __sk_buff *skb, const struct packet *p)
{
	if (p->direction == DIR_4TO6)
		return !bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	/* a positive number is the return value of our own program */
	return bpf_clone_redirect(skb, skb->ifindex, 0) >= 0;
}

static __always_inline bool is_anything_held(struct held_key *key)
{
	int i;

	for (i = 0; i < HELD_PER_PACKET; i++) {
		key->index = i;
		if (bpf_map_lookup_elem(&held, key))
			return true;
	}
	return false;
}

/* Send this first fragment through the program again, and after it those that were held for it. */
__noinline enum verdict release_fragments(struct __sk_buff *skb, struct packet *p)
{
	__u32 now = now_seconds();
	struct held_key key = {};
	struct fragment *known;
	int i;

	REQUIRE(p, GO_ON);
	fragment_key_of(p, &key.packet);
	if (!is_anything_held(&key))
		return GO_ON;
	known = bpf_map_lookup_elem(&fragments, &key.packet);
	if (!known || __sync_val_compare_and_swap(&known->released, 0, 1))
		return GO_ON; /* the packet is here for the second time */
	if (!send_round(skb, p))
		return STOP_dropped_internal;
	for (i = 0; i < HELD_PER_PACKET; i++) {
		struct held *waiting;

		key.index = i;
		key.part = 0;
		waiting = bpf_map_lookup_elem(&held, &key);
		if (!waiting || waiting->expires <= now || !take_over(&waiting->expires, 0, true))
			continue;
		if (restore_held(skb, p, i) || !send_round(skb, p)) {
			count(p->direction, COUNT_received);
			count(p->direction, COUNT_dropped_internal);
		}
		drop_held(&key);
	}
	return STOP_held; /* they are counted when they come again */
}
