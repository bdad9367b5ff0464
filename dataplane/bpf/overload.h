/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP ports lent per destination, once the pool has run out and where the config allows it. */
#pragma once

#include "session.h"

#define LEND_TRIES 32

static __always_inline void overload_key_of(const struct packet *p, struct overload_key *key)
{
	key->client = p->client;
	key->remote = p->remote;
	key->client_port = p->client_port;
	key->remote_port = p->remote_port;
}

/* Out of ports: share one that is taken, as long as nobody uses it towards the same remote end. The
 * insertion of the session is the claim. The client has no binding then, so the mapping is not
 * endpoint-independent, and nobody can connect to it. */
__noinline enum verdict lend_port(struct packet *p, __u32 expires, __u32 now)
{
	struct pool_range *range;
	struct config *config;
	__u32 slot, index;

	REQUIRE(p, STOP_dropped_internal);
	config = active_config(&slot);
	if (!config || !config->pool_ranges)
		return STOP_dropped_ports_exhausted;
	index = slot * MAX_POOL_RANGES + client_hash(&p->client) % config->pool_ranges;
	range = bpf_map_lookup_elem(&pool, &index);
	if (!range)
		return STOP_dropped_ports_exhausted;
	p->pool = range->address;
	p->pool_port =
		bpf_htons(range->first + bpf_get_prandom_u32() % (range->last - range->first + 1));
	p->generation = bpf_get_prandom_u32();
	p->session_flags = SESSION_CONFIRMED | SESSION_OVERLOAD;
	if (p->flags & PACKET_FROM_OUTSIDE)
		p->session_flags |= SESSION_OUTSIDE;
	return insert_session(p, TCP_V6_INIT, expires, config->epoch, now);
}

__noinline enum verdict open_overloaded(struct packet *p, __u32 expires, __u32 now)
{
	struct session_key session_key;
	struct overload_key key;
	struct overload entry = {};
	enum verdict result = AGAIN;
	int i;
	int error;

	REQUIRE(p, STOP_dropped_internal);
	for (i = 0; i < LEND_TRIES && result == AGAIN; i++)
		result = lend_port(p, expires, now);
	if (result)
		return result == AGAIN ? STOP_dropped_ports_exhausted : result;
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

/* What open_overloaded has set up, if anything: pool address and port. */
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
