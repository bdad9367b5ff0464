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

/* Find the pool address and port that open_overloaded has lent to `p`, if any. */
static __noinline bool find_overloaded(struct packet *p)
{
	struct shared *all = all_shared();
	struct overload_key key;
	struct overload *entry;

	if (!all || !all->lent)
		return false; /* each new connection comes here */
	overload_key_of(p, &key);
	entry = bpf_map_lookup_elem(&overloads, &key);
	if (!entry)
		return false;
	p->pool = entry->pool;
	p->pool_port = entry->pool_port;
	return true;
}

/* Pick a port to share: one that is taken. Free ports are for clients that may have a port of their
 * own. */
__noinline enum verdict pick_taken_port(struct packet *p)
{
	struct pool_range *range;

	REQUIRE(p, STOP_dropped_internal);
	range = client_range(p);
	if (!range)
		return STOP_dropped_ports_exhausted;
	p->pool = range->address;
	p->pool_port =
		bpf_htons(range->first + bpf_get_prandom_u32() % (range->last - range->first + 1));
	return port_is_marked(p->pool, p->pool_port, PORTS_TAKEN, p->protocol) ? GO_ON : AGAIN;
}

/* Whether a port has been lent to the flow of `p` before; `p` gets that port. An entry that has no
 * session is removed. */
static __noinline bool was_lent(struct packet *p)
{
	struct session_key session_key;
	struct overload_key key;
	struct session *session;

	if (!find_overloaded(p))
		return false;
	session_key_of(p, &session_key);
	session = bpf_map_lookup_elem(&sessions, &session_key);
	if (session && is_client_of(session, p) && session->flags & SESSION_OVERLOAD)
		return true;
	overload_key_of(p, &key);
	drop_lent(&key, p->pool, p->pool_port);
	return false;
}

/* Remove the session that `p` has just opened: no packet would find it. */
static __noinline void unlend(const struct packet *p)
{
	union session_life seen, gone = {};
	struct session_key key;
	struct session *session;
	int i;

	session_key_of(p, &key);
	session = bpf_map_lookup_elem(&sessions, &key);
	for (i = 0; i < LIFE_TRIES && session && session->generation == p->generation; i++) {
		seen = session_life_of(session);
		if (!seen.expires)
			return;
		if (!change_session(session, seen, gone))
			continue;
		bpf_map_delete_elem(&sessions, &key);
		count(DIR_6TO4, COUNT_sessions_closed);
		return;
	}
}

/* Store where the session that borrows a port is found. AGAIN: another CPU has lent a port to the
 * same flow, and `p` has that port now. */
__noinline enum verdict note_overload(struct packet *p)
{
	struct overload_key key;
	struct overload entry = {};
	int error;

	REQUIRE(p, STOP_dropped_internal);
	overload_key_of(p, &key);
	entry.pool = p->pool;
	entry.pool_port = p->pool_port;
	error = insert_lent(&key, &entry);
	if (!error) {
		count(DIR_6TO4, COUNT_ports_lent);
		return GO_ON;
	}
	unlend(p);
	return error == -EEXIST && find_overloaded(p) ? AGAIN : refused_insertion(error);
}

/* The pool is out of ports: share one that is taken, if nobody uses it towards the same remote end.
 * Inserting the session claims it. The client has no binding then, so the mapping is not
 * endpoint-independent, and nobody can connect to it. */
inline_step enum verdict open_overloaded(struct packet *p, __u32 expires, __u32 now)
{
	enum verdict result = AGAIN;
	int i;

	p->session_flags = SESSION_CONFIRMED | SESSION_OVERLOAD | (p->session_flags & SESSION_CLAT);
	if (was_lent(p))
		STEP(make_way(p, now)); /* AGAIN: it is in use */
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
