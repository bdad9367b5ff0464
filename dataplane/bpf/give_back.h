/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ports that are given back before a sweep removes their bindings, because a client needs one:
 * ports of expired bindings, and ports of connections that both ends have closed. A live binding
 * keeps its port. */
#pragma once

#include "session.h"

#define CLOSED_TRIES	16 /* entries of the queue looked at for one port */
#define EXPIRED_TRIES	64 /* ports looked at, likewise */
#define GIVE_BACK_TRIES 4  /* another CPU may claim the freed port first */

/* Remove the session that was closed first. GO_ON: a port is free now. AGAIN: none is, but the next
 * session may free one. Otherwise no session is left that could. */
__noinline enum verdict give_back_closed(struct packet *p, __u32 now)
{
	union session_life seen, gone = {};
	struct closed_session first = {};
	struct session *session;
	struct config *config;
	bool freed, ours;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config || bpf_map_peek_elem(&closed, &first) || first.second + CLOSED_REST > now)
		return STOP_dropped_ports_exhausted;
	if (bpf_map_pop_elem(&closed, &first))
		return STOP_dropped_ports_exhausted;
	if (first.second + CLOSED_REST > now) { /* another CPU has removed the entry that we saw */
		bpf_map_push_elem(&closed, &first, BPF_EXIST);
		return STOP_dropped_ports_exhausted;
	}
	session = bpf_map_lookup_elem(&sessions, &first.key);
	if (!session || session->generation != first.generation)
		return AGAIN;
	session->queued = 0;
	seen = session_life_of(session);
	if (!seen.expires)
		return AGAIN;
	if (closed_for(config, seen, now) < CLOSED_REST) {
		if (seen.state & TCP_SHUT) { /* it was in use again in the meantime */
			session->queued = 1;
			first.second = now;
			bpf_map_push_elem(&closed, &first, BPF_EXIST);
		}
		return AGAIN;
	}
	if (!change_session(session, seen, gone))
		return AGAIN;
	ours = session->zone == p->zone;
	freed = session_ends(&first.key, session, seen.state, true);
	bpf_map_delete_elem(&sessions, &first.key);
	count(DIR_6TO4, COUNT_sessions_closed);
	return freed && ours ? GO_ON : AGAIN;
}

/* Remove the binding of port `at` of the client's pool range, if it has expired. */
__noinline enum verdict give_back_expired(struct packet *p, __u32 at, __u32 now)
{
	struct bib4_key name = {};
	struct pool_range *range;
	struct bib4 *binding;

	REQUIRE(p, STOP_dropped_internal);
	range = client_range(p);
	if (!range)
		return STOP_dropped_ports_exhausted;
	name.pool = range->address;
	name.pool_port = bpf_htons(range->first + at % (range->last - range->first + 1));
	name.protocol = p->protocol;
	binding = bpf_map_lookup_elem(&bib4, &name);
	if (!binding || binding->flags & BIB_STATIC || !take_over_binding(binding, now, false))
		return AGAIN;
	close_binding(&name, binding);
	return GO_ON;
}

/* Free a port for `p`, if there is one that nobody uses any more. */
static __always_inline enum verdict give_back(struct packet *p, __u32 now)
{
	enum verdict result = AGAIN;
	struct shared *all = all_shared();
	__u32 at;
	int i;

	if (!all)
		return STOP_dropped_internal;
	for (i = 0; i < CLOSED_TRIES && p->protocol == IPPROTO_TCP && result == AGAIN; i++)
		result = give_back_closed(p, now);
	if (result == GO_ON) {
		count(DIR_6TO4, COUNT_ports_given_back);
		return GO_ON;
	}
	/* each search starts where the last one ended, so that together they visit all ports */
	at = __sync_fetch_and_add(&all->searched, EXPIRED_TRIES);
	for (i = 0; i < EXPIRED_TRIES; i++) {
		result = give_back_expired(p, at + i, now);
		if (result == AGAIN)
			continue;
		if (!result)
			count(DIR_6TO4, COUNT_ports_given_back);
		return result;
	}
	return STOP_dropped_ports_exhausted;
}
