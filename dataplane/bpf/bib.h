/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Bindings: which IPv4 address and port stand for an IPv6 address and port (RFC 6146 sections 3.1,
 * 3.5).
 *
 * An entry of bib4 is the binding; one of bib6 finds it from the IPv6 side. The CPU that inserts
 * into bib4 owns the port. `expires` is never before that of any session. It becomes 0 by
 * compare-and-swap when a CPU is about to remove the entry; from then on nobody may use it.
 */
#pragma once

#include "ports.h"

#define LIFE_TRIES 8 /* each lost try means that another CPU has won */

/* Raise `expires` of an entry that has nothing else to update with it. False if it is being
 * removed. */
static __always_inline bool extend(__u32 *where, __u32 expires)
{
	int i;

	for (i = 0; i < LIFE_TRIES; i++) {
		__u32 seen = *(volatile __u32 *)where;

		if (!seen)
			return false;
		if (seen >= expires)
			return true;
		if (__sync_val_compare_and_swap(where, seen, expires) == seen)
			return true;
	}
	return true; /* other CPUs keep raising it */
}

/* Claim the removal of an entry, if it has expired at `before`, or whenever if `regardless`. True:
 * the caller must delete it. */
static __always_inline bool take_over(__u32 *expires, __u32 before, bool regardless)
{
	__u32 seen = *(volatile __u32 *)expires;

	if (!seen || (seen > before && !regardless))
		return false;
	return __sync_val_compare_and_swap(expires, seen, 0) == seen;
}

static __always_inline union binding_life life_of(const struct bib4 *binding)
{
	union binding_life seen = {.word = *(volatile __u64 *)&binding->life.word};

	return seen;
}

static __always_inline bool change_life(struct bib4 *binding, union binding_life from,
					union binding_life to)
{
	return __sync_val_compare_and_swap(&binding->life.word, from.word, to.word) == from.word;
}

/* Raise a binding's `expires`, and count `sessions` more that use it. False if it is being removed.
 */
static __always_inline bool binding_lives(struct bib4 *binding, __u32 expires, __u32 sessions)
{
	int i;

	for (i = 0; i < LIFE_TRIES; i++) {
		union binding_life seen = life_of(binding), next = seen;

		if (!seen.expires)
			return false;
		if (next.expires < expires)
			next.expires = expires;
		next.sessions += sessions;
		if (next.word == seen.word || change_life(binding, seen, next))
			return true;
	}
	return !sessions; /* otherwise other CPUs keep raising it */
}

/* Claim the removal of a binding, likewise. */
static __always_inline bool take_over_binding(struct bib4 *binding, __u32 before, bool regardless)
{
	union binding_life seen = life_of(binding), gone = {};

	if (!seen.expires || (seen.expires > before && !regardless))
		return false;
	return change_life(binding, seen, gone);
}

static __always_inline void bib6_key_of(const struct packet *p, struct bib6_key *key)
{
	key->client = p->client;
	key->client_port = p->client_port;
	key->protocol = p->protocol;
	key->pad = 0;
	key->pad2 = 0;
}

static __always_inline void bib4_key_of(const struct packet *p, struct bib4_key *key)
{
	key->pool = p->pool;
	key->pool_port = p->pool_port;
	key->protocol = p->protocol;
	key->pad = 0;
}

static __always_inline bool is_binding_of(const struct bib4 *binding, const struct packet *p)
{
	return binding->client_port == p->client_port && addr6_equal(&binding->client, &p->client);
}

/* Keep the binding of `p` alive until `expires`, and count `sessions` more that use it. False if it
 * is gone or another client's; otherwise `p` gets its generation. */
static __noinline bool bib4_extend(struct packet *p, __u32 expires, __u32 sessions)
{
	struct bib4_key key;
	struct bib4 *binding;

	bib4_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib4, &key);
	if (!binding || !is_binding_of(binding, p))
		return false;
	p->generation = binding->generation;
	if (binding->flags & BIB_STATIC)
		p->flags |= PACKET_STATIC;
	return binding_lives(binding, expires, sessions);
}

/* The second until which the binding of `p` lives; 0 if it is gone or another client's. */
static __noinline __u32 bib4_expires(const struct packet *p)
{
	struct bib4_key key;
	struct bib4 *binding;

	bib4_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib4, &key);
	return binding && is_binding_of(binding, p) ? binding->life.expires : 0;
}

/* Remove a binding and everything that it holds: its bib6 entry, the port's bit and the client's
 * count. Only the CPU that owns it may call this: it has just claimed the port, or has claimed the
 * removal. The bit goes last: until then nobody searches for this port. */
static __noinline void release_binding(const struct bib4_key *name, const struct bib6_key *owner)
{
	struct port_block_key block_key = {
		.address = name->pool, .kind = PORTS_TAKEN, .protocol = name->protocol};
	__u32 port = bpf_ntohs(name->pool_port);
	struct bib6 *entry = bpf_map_lookup_elem(&bib6, owner);
	struct port_block *taken;

	/* another CPU may have given the client another port in the meantime */
	if (entry && entry->pool == name->pool && entry->pool_port == name->pool_port)
		bpf_map_delete_elem(&bib6, owner);
	bpf_map_delete_elem(&bib4, name);
	block_key.block = port / PORTS_PER_BLOCK;
	taken = bpf_map_lookup_elem(&ports, &block_key);
	if (taken)
		mark_port(taken, index_below(port, PORTS_PER_BLOCK), false);
	count_port(&owner->client, name->protocol, false);
	client_gives(&owner->client, HOLDS_PORT);
}

/* Remove a binding that was in use. The caller has claimed its removal. */
static __always_inline void close_binding(const struct bib4_key *name, const struct bib4 *binding)
{
	struct bib6_key owner = {};

	owner.client = binding->client;
	owner.client_port = binding->client_port;
	owner.protocol = name->protocol;
	release_binding(name, &owner);
	count(DIR_6TO4, COUNT_bindings_closed);
}

/* Count one session less of a binding. With `unused`, the binding is removed with its last session,
 * and the result is true. Otherwise its port rests until a sweep, or until it is needed. */
static __noinline bool bib4_leave(const struct bib4_key *which, __u32 generation, bool unused)
{
	struct bib4_key name = *which;
	struct bib4 *binding = bpf_map_lookup_elem(&bib4, &name);
	int i;

	if (!binding || binding->generation != generation)
		return false;
	for (i = 0; i < LIFE_TRIES; i++) {
		union binding_life seen = life_of(binding), next = seen;
		bool last = unused && seen.sessions <= 1 && !(binding->flags & BIB_STATIC);

		if (!seen.expires || !seen.sessions)
			return false;
		next.sessions--;
		if (last)
			next.word = 0;
		if (!change_life(binding, seen, next))
			continue;
		if (last)
			close_binding(&name, binding);
		return last;
	}
	return false;
}

/* Find the binding of p->client and p->client_port, if it can be used. */
static __noinline bool find_binding(struct packet *p, __u32 expires, __u32 sessions)
{
	struct bib6_key key;
	struct bib6 *entry;

	bib6_key_of(p, &key);
	entry = bpf_map_lookup_elem(&bib6, &key);
	if (!entry)
		return false;
	p->pool = entry->pool;
	p->pool_port = entry->pool_port;
	if (bib4_extend(p, expires, sessions))
		return true;
	bpf_map_delete_elem(&bib6, &key); /* its binding is gone */
	return false;
}
