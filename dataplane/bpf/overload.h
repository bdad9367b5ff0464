/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP ports lent per destination, if the pool is out of ports and the config allows it. */
#pragma once

#include "give_back.h"

#define LEND_TRIES 32

static __always_inline void overload_key_of(const struct packet *p, struct overload_key *key)
{
	key->client = p->client;
	key->remote = p->remote;
	key->client_port = p->client_port;
	key->remote_port = p->remote_port;
}

static __always_inline bool is_taken(const struct packet *p)
{
	struct port_block_key key = {.kind = PORTS_TAKEN};
	__u32 port = bpf_ntohs(p->pool_port);
	struct port_block *taken;

	key.address = p->pool;
	key.protocol = p->protocol;
	key.block = port / PORTS_PER_BLOCK;
	taken = bpf_map_lookup_elem(&ports, &key);
	return taken && taken->bits[index_below(port / 64, PORT_WORDS)] & 1ULL << (port & 63);
}

/* Pick a port to share: one that is taken. Free ports are for clients that may have a port of their
 * own. */
__noinline enum verdict pick_taken_port(struct packet *p)
{
	struct pool_range *range;
	struct config *config;
	__u32 index;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config || !config->pool_ranges)
		return STOP_dropped_ports_exhausted;
	index = index_below(p->slot, CONFIG_SLOTS) * MAX_POOL_RANGES +
		client_hash(&p->client) % config->pool_ranges;
	range = bpf_map_lookup_elem(&pool, &index);
	if (!range)
		return STOP_dropped_ports_exhausted;
	p->pool = range->address;
	p->pool_port =
		bpf_htons(range->first + bpf_get_prandom_u32() % (range->last - range->first + 1));
	return is_taken(p) ? GO_ON : AGAIN;
}

/* Store where the session that borrows a port is found. */
__noinline enum verdict note_overload(struct packet *p)
{
	struct session_key session_key;
	struct overload_key key;
	struct overload entry = {};
	int error;

	REQUIRE(p, STOP_dropped_internal);
	overload_key_of(p, &key);
	entry.pool = p->pool;
	entry.pool_port = p->pool_port;
	error = bpf_map_update_elem(&overloads, &key, &entry, BPF_ANY);
	if (error) {
		session_key_of(p, &session_key);
		bpf_map_delete_elem(&sessions, &session_key);
		count(DIR_6TO4, COUNT_sessions_closed);
		return refused_insertion(error);
	}
	count(DIR_6TO4, COUNT_ports_lent);
	return GO_ON;
}

/* The pool is out of ports: share one that is taken, if nobody uses it towards the same remote end.
 * Inserting the session claims it. The client has no binding then, so the mapping is not
 * endpoint-independent, and nobody can connect to it. */
inline_step enum verdict open_overloaded(struct packet *p, __u32 expires, __u32 now)
{
	enum verdict result = AGAIN;
	int i;

	p->session_flags = SESSION_CONFIRMED | SESSION_OVERLOAD;
	if (p->flags & PACKET_FROM_OUTSIDE)
		p->session_flags |= SESSION_OUTSIDE;
	p->generation = bpf_get_prandom_u32();
	for (i = 0; i < LEND_TRIES && result == AGAIN; i++) {
		result = pick_taken_port(p);
		if (result)
			continue;
		result = place_session(p, expires, now);
	}
	if (result)
		return result == AGAIN ? STOP_dropped_ports_exhausted : result;
	return note_overload(p);
}

/* Find the pool address and port that open_overloaded has lent to `p`, if any. */
static __noinline bool find_overloaded(struct packet *p)
{
	struct overload_key key;
	struct overload *entry;

	overload_key_of(p, &key);
	entry = bpf_map_lookup_elem(&overloads, &key);
	if (!entry)
		return false;
	p->pool = entry->pool;
	p->pool_port = entry->pool_port;
	return true;
}
