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

_Static_assert(BIB_CLAT == SESSION_CLAT, "a session's flag is copied to its binding");

#define LIFE_TRIES   8		  /* each lost try means that another CPU has won */
#define USES_BINDING (1ULL << 32) /* one of binding_life.sessions, in its word */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "USES_BINDING is the upper half");

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

/* Tell the next sweep that a session needs the binding until `expires`: see follow_sessions(). */
static __always_inline void note_need(struct bib4 *binding, __u32 expires)
{
	int i;

	for (i = 0; i < LIFE_TRIES; i++) {
		__u32 seen = *(volatile __u32 *)&binding->needed;

		if (seen >= expires ||
		    __sync_val_compare_and_swap(&binding->needed, seen, expires) == seen)
			return;
	}
}

/* Raise a binding's `expires`, and count `sessions` more that use it. False if it is being removed.
 */
static __always_inline bool binding_lives(struct bib4 *binding, __u32 expires, __u32 sessions)
{
	union binding_life seen;
	int i;

	note_need(binding, expires);
	seen.word = sessions ? __sync_fetch_and_add(&binding->life.word, sessions * USES_BINDING)
			     : life_of(binding).word;
	if (!seen.expires)
		return false;
	for (i = 0; i < LIFE_TRIES; i++) {
		union binding_life next;

		next = seen = life_of(binding);
		if (!seen.expires)
			return false;
		if (seen.expires >= expires)
			return true;
		next.expires = expires;
		if (change_life(binding, seen, next))
			return true;
	}
	return true; /* other CPUs keep raising it */
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
	key->zone = p->zone;
	key->pad = 0;
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

/* Pool address and port of a bib6 entry, with the port that shares their word. */
union way_word {
	struct {
		__be32 pool;
		__be16 pool_port, recent_port;
	};
	__u64 word;
};
_Static_assert(__builtin_offsetof(struct bib6, recent_port) ==
		       __builtin_offsetof(union way_word, recent_port),
	       "a bib6 entry begins with this word");

/* Read both in one load: an entry that is being removed has neither. */
static __always_inline void use_bib6(const struct bib6 *entry, struct packet *p)
{
	union way_word seen = {.word = *(volatile __u64 *)entry};

	p->pool = seen.pool;
	p->pool_port = seen.pool_port;
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
	else if (sessions && p->direction == DIR_6TO4 &&
		 (binding->flags ^ p->session_flags) & SESSION_CLAT)
		binding->flags = p->session_flags & SESSION_CLAT;
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

/* Remove the bib6 entry that leads to binding `name`. An entry that leads to another binding stays:
 * another CPU has given the client another port meanwhile. The CPU that clears the word deletes the
 * entry. Until it has done so, nobody can insert another one, so it can't delete that. */
static __noinline void drop_way(const struct bib6_key *owner, const struct bib4_key *name)
{
	struct bib6 *entry = bpf_map_lookup_elem(&bib6, owner);
	int i;

	for (i = 0; entry && name->pool && i < LIFE_TRIES; i++) {
		__u64 *where = (__u64 *)entry;
		union way_word seen = {.word = *(volatile __u64 *)where};

		if (seen.pool != name->pool || seen.pool_port != name->pool_port)
			return;
		if (__sync_val_compare_and_swap(where, seen.word, 0) != seen.word)
			continue;
		bpf_map_delete_elem(&bib6, owner);
		return;
	}
}

/* Remove a binding and everything that it holds: its bib6 entry, the port's bit and the client's
 * count. Only the CPU that has claimed its removal may call this. The bit goes last: until then
 * nobody searches for this port. */
static __noinline void release_binding(const struct bib4_key *name, const struct bib4 *binding)
{
	struct open_work *work = open_work_here();
	struct port_block_key block_key = {
		.address = name->pool, .kind = PORTS_TAKEN, .protocol = name->protocol};
	__u32 port = bpf_ntohs(name->pool_port);
	struct bib6_key *owner;
	struct port_block *taken;

	if (!work)
		return;
	owner = &work->owner;
	__builtin_memset(owner, 0, sizeof(*owner));
	owner->client = binding->client;
	owner->client_port = binding->client_port;
	owner->protocol = name->protocol;
	owner->zone = binding->zone;
	drop_way(owner, name);
	bpf_map_delete_elem(&bib4, name);
	block_key.block = port / PORTS_PER_BLOCK;
	taken = bpf_map_lookup_elem(&ports, &block_key);
	if (taken)
		free_taken_port(taken, index_below(port, PORTS_PER_BLOCK));
	client_port_freed(&owner->client, owner->zone, name->protocol);
}

/* Remove a binding that was in use. The caller has claimed its removal. */
static __always_inline void close_binding(const struct bib4_key *name, const struct bib4 *binding)
{
	release_binding(name, binding);
	count(DIR_6TO4, COUNT_bindings_closed);
}

/* Count one session less of a binding. With `unused`, the binding is removed with its last session,
 * and the result is true. Otherwise its port rests until a sweep, or until it is needed. */
static __noinline bool bib4_leave(const struct bib4_key *which, __u32 generation, bool unused)
{
	struct bib4_key name = *which;
	struct bib4 *binding = bpf_map_lookup_elem(&bib4, &name);
	union binding_life seen, gone = {};

	if (!binding || binding->generation != generation || !life_of(binding).expires)
		return false;
	seen.word = __sync_fetch_and_add(&binding->life.word, -USES_BINDING);
	if (!seen.sessions) {
		__sync_fetch_and_add(&binding->life.word, USES_BINDING);
		return false;
	}
	if (!unused || seen.sessions > 1 || binding->flags & BIB_STATIC)
		return false;
	seen = life_of(binding);
	if (!seen.expires || seen.sessions || !change_life(binding, seen, gone))
		return false;
	close_binding(&name, binding);
	return true;
}

/* Find the binding of p->client and p->client_port, if it can be used. */
static __noinline bool find_binding(struct packet *p, __u32 expires, __u32 sessions)
{
	struct bib6_key key;
	struct bib4_key name;
	struct bib6 *entry;

	bib6_key_of(p, &key);
	entry = bpf_map_lookup_elem(&bib6, &key);
	if (!entry)
		return false;
	use_bib6(entry, p);
	if (bib4_extend(p, expires, sessions))
		return true;
	bib4_key_of(p, &name);
	drop_way(&key, &name); /* its binding is gone */
	return false;
}
