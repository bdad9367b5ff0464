/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Bindings: which IPv4 address and port stand for an IPv6 one (RFC 6146 sections 3.1, 3.5).
 *
 * An entry of bib4 is the binding; one of bib6 is the way to find it from the IPv6 side. Whoever
 * inserts into bib4 owns the port. `expires` never lies before that of any session, and becomes 0
 * by compare-and-swap when somebody sets out to remove the entry; from then on nobody may use it.
 */
#pragma once

#include "ports.h"

/* Raise `expires`. False where the entry is being removed. */
static __always_inline bool extend(__u32 *where, __u32 expires)
{
	int i;

	for (i = 0; i < 4; i++) {
		__u32 seen = *(volatile __u32 *)where;

		if (!seen)
			return false;
		if (seen >= expires)
			return true;
		if (__sync_val_compare_and_swap(where, seen, expires) == seen)
			return true;
	}
	return true; /* others keep it alive faster than we can */
}

/* Become the one who may remove an entry, if it has expired `before`, or regardless of that. */
static __always_inline bool take_over(__u32 *expires, __u32 before, bool regardless)
{
	__u32 seen = *(volatile __u32 *)expires;

	if (!seen || (seen > before && !regardless))
		return false;
	return __sync_val_compare_and_swap(expires, seen, 0) == seen;
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

/* Keep the binding of `p` alive until `expires`. False where it is gone or another's; else `p` gets
 * its generation. */
static __noinline bool bib4_extend(struct packet *p, __u32 expires)
{
	struct bib4_key key;
	struct bib4 *binding;

	bib4_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib4, &key);
	if (!binding || binding->client_port != p->client_port ||
	    !addr6_equal(&binding->client, &p->client))
		return false;
	p->generation = binding->generation;
	return binding->flags & BIB_STATIC || extend(&binding->expires, expires);
}

/* One more port for the client, if it may (RFC 6888 REQ-4). */
static __noinline enum verdict client_port_taken(const struct packet *p, __u32 limit)
{
	union addr6 address = p->client; /* a key on the stack: see verifier.h */
	struct client *client = bpf_map_lookup_elem(&clients, &address);

	if (!client) {
		struct client fresh = {};

		bpf_map_update_elem(&clients, &address, &fresh, BPF_NOEXIST);
		client = bpf_map_lookup_elem(&clients, &address);
		if (!client)
			return limit ? STOP_dropped_client_port_limit : GO_ON;
	}
	if (__sync_fetch_and_add(&client->ports, 1) >= limit && limit) {
		__sync_fetch_and_add(&client->ports, -1);
		return STOP_dropped_client_port_limit;
	}
	return GO_ON;
}

static __noinline void client_port_freed(const union addr6 *which)
{
	union addr6 address = *which;
	struct client *client = bpf_map_lookup_elem(&clients, &address);

	if (client && client->ports)
		__sync_fetch_and_add(&client->ports, -1);
}

/* Remove a binding and all that it holds: the way to it from the IPv6 side, the port's bit and the
 * client's count. Only for who owns it: this CPU has just claimed it, or has taken over its expiry.
 * The bit goes last: until then nobody looks for this port. */
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
	client_port_freed(&owner->client);
}

/* The binding of p->client and p->client_port, where there is one that can be used. */
static __noinline bool find_binding(struct packet *p, __u32 expires)
{
	struct bib6_key key;
	struct bib6 *entry;

	bib6_key_of(p, &key);
	entry = bpf_map_lookup_elem(&bib6, &key);
	if (!entry)
		return false;
	p->pool = entry->pool;
	p->pool_port = entry->pool_port;
	if (bib4_extend(p, expires))
		return true;
	bpf_map_delete_elem(&bib6, &key); /* its binding is gone */
	return false;
}

/* Find or make the binding (RFC 6146 section 3.5.1): endpoint-independent, so the remote end has
 * no say in it. */
static __always_inline enum verdict get_binding(struct packet *p, __u32 port_limit, __u32 expires,
						__u32 now)
{
	struct bib6_key key;
	struct bib4_key name;
	struct bib6 entry = {};
	enum verdict refusal;
	int error;

	/* looked for already: without a pool address of its own, `p` has no binding */
	if (p->pool && find_binding(p, expires))
		return GO_ON;
	STEP(client_port_taken(p, port_limit));
	refusal = claim_port(p, expires, now);
	if (refusal) {
		client_port_freed(&p->client);
		return refusal;
	}
	bib6_key_of(p, &key);
	entry.pool = p->pool;
	entry.pool_port = p->pool_port;
	error = bpf_map_update_elem(&bib6, &key, &entry, BPF_NOEXIST);
	if (!error) {
		count(DIR_6TO4, COUNT_bindings_opened);
		return GO_ON;
	}
	/* another CPU was first with a packet of the same client and port, or the table is full */
	bib4_key_of(p, &name);
	release_binding(&name, &key);
	return find_binding(p, expires) ? GO_ON : refused_insertion(error);
}
