/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The session table (RFC 6146 sections 3.5.1 to 3.5.3): how a session is inserted, replaced and
 * removed. An expired session counts as absent to every packet; nat64_sweep removes it later. */
#pragma once

#include "session_lookup.h"

#define CLOSED_REST 4 /* seconds that a closed session is kept: packets may be on their way */

/* Note that the client has talked to this remote address, for address-dependent filtering. A
 * contact that is being removed is left alone: the CPU that removes it would remove its
 * replacement. */
static __noinline void note_contact(const struct packet *p, __u32 expires)
{
	struct session fresh = {};
	struct session_key key;
	struct session *contact;

	session_key_of(p, &key);
	key.remote_port = 0;
	contact = bpf_map_lookup_elem(&sessions, &key);
	if (contact && contact->generation == p->generation) {
		extend(&contact->life.expires, expires);
		return;
	}
	if (contact) { /* it belongs to an earlier binding */
		if (!take_over(&contact->life.expires, 0, true))
			return;
		bpf_map_delete_elem(&sessions, &key);
	}
	fresh.client = p->client;
	fresh.client_port = p->client_port;
	fresh.flags = SESSION_CONTACT;
	fresh.generation = p->generation;
	fresh.life.expires = expires;
	bpf_map_update_elem(&sessions, &key, &fresh, BPF_NOEXIST);
}

static __always_inline bool keeps_contacts(const struct config *config, const struct packet *p)
{
	return config->flags & CONFIG_ADDRESS_DEPENDENT && p->protocol != IPPROTO_ICMP;
}

static __always_inline void count_inbound(void)
{
	struct shared *all = all_shared();

	if (all)
		__sync_fetch_and_add(&all->inbound_sessions, 1);
}

/* only TCP shows whether a reply is due */
static __always_inline void count_unanswered(const struct packet *p)
{
	struct shared *all = all_shared();

	if (all)
		__sync_fetch_and_add(&all->unanswered[index_below(p->zone, MAX_ZONES)], 1);
}

/* A reply has come back: the way out works. */
static __always_inline void note_answer(const struct packet *p)
{
	__u32 zone = index_below(p->zone, MAX_ZONES);
	struct shared *all = all_shared();

	if (all && all->unanswered[zone])
		all->unanswered[zone] = 0;
}

/* Whether a session counts towards the limit of its client, which has opened it. At rest it
 * doesn't. */
static __always_inline bool is_of_client_limit(__u8 flags)
{
	return !(flags & (SESSION_INBOUND | SESSION_CONTACT));
}

_Static_assert(sizeof(struct overload) == sizeof(__u64), "drop_lent compares it as one word");

/* Insert an entry of `overloads`. It is counted before it is there: while the count is 0, packets
 * need not look for one. */
static __always_inline int insert_lent(const struct overload_key *name,
				       const struct overload *entry)
{
	struct shared *all = all_shared();
	int error;

	if (!all)
		return -EEXIST;
	__sync_fetch_and_add(&all->lent, 1);
	error = bpf_map_update_elem(&overloads, name, entry, BPF_NOEXIST);
	if (error)
		__sync_fetch_and_add(&all->lent, -1);
	return error;
}

/* Remove an entry of `overloads`, unless it has another port by now: see drop_way. */
static __noinline void drop_lent(const struct overload_key *name, __be32 pool, __be16 pool_port)
{
	__u64 *entry = bpf_map_lookup_elem(&overloads, name);
	struct shared *all = all_shared();
	union {
		struct overload told;
		__u64 word;
	} old = {.told = {.pool = pool, .pool_port = pool_port}};

	if (!entry || !pool || __sync_val_compare_and_swap(entry, old.word, 0) != old.word)
		return;
	bpf_map_delete_elem(&overloads, name);
	if (all)
		count_down(&all->lent);
}

static __always_inline void drop_overload(const struct session_key *key,
					  const struct session *session)
{
	struct overload_key name = {
		.client = session->client,
		.remote = key->remote,
		.client_port = session->client_port,
		.remote_port = key->remote_port,
	};

	drop_lent(&name, key->pool, key->pool_port);
}

/* Take a session out of all counts. The caller has claimed its removal; `state` is the state in
 * which it ended. True if its binding was removed with it, which happens only if `unused`. */
static __always_inline bool session_ends(const struct session_key *key,
					 const struct session *session, __u8 state, bool unused)
{
	struct bib4_key name = {};

	name.pool = key->pool;
	name.pool_port = key->pool_port;
	name.protocol = key->protocol;
	if (session->flags & SESSION_CONTACT)
		return false;
	if (!(state & TCP_SHUT) && is_of_client_limit(session->flags))
		client_gives(&session->client, HOLDS_SESSION);
	if (session->flags & SESSION_OVERLOAD) {
		drop_overload(key, session);
		return false;
	}
	if (state & TCP_SHUT)
		count_closed(client_of(&session->client), session->zone, false);
	return bib4_leave(&name, session->generation, unused);
}

/* Claim the removal of a session, if it has expired at `before`, or whenever if `regardless`, and
 * take it out of all counts. True: the caller must delete it. */
static __always_inline bool take_over_session(const struct session_key *key,
					      struct session *session, __u32 before,
					      bool regardless)
{
	union session_life seen = session_life_of(session), gone = {};

	if (!seen.expires || (seen.expires > before && !regardless))
		return false;
	if (!change_session(session, seen, gone))
		return false;
	session_ends(key, session, seen.state, false);
	return true;
}

/* For how many seconds both ends have finished with a session; 0 if they haven't. */
static __always_inline __u32 closed_for(const struct config *config, union session_life life,
					__u32 now)
{
	__u32 closed = life.expires - config->timeout[TIMER_TCP_TRANSITORY] - 1;

	return life.state & TCP_SHUT && closed < now ? now - closed : 0;
}

/* Insert the session of `p`. AGAIN: the table has an entry with its key. */
__noinline enum verdict insert_session(struct packet *p, __u32 expires, __u32 now)
{
	struct open_work *work = open_work_here();
	struct config *config;
	struct session_key key;
	struct session *fresh;
	int error;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config || !work)
		return STOP_dropped_internal;
	fresh = &work->session;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->client = p->client;
	fresh->client_port = p->client_port;
	fresh->zone = p->zone;
	fresh->flags = p->session_flags;
	if (p->direction == DIR_4TO6)
		fresh->flags |= SESSION_INBOUND;
	if (p->protocol == IPPROTO_TCP)
		fresh->life.state = p->direction == DIR_4TO6 ? TCP_V4_INIT : TCP_V6_INIT;
	fresh->life.expires = expires;
	fresh->life.segment = p->segment;
	fresh->generation = p->generation;
	fresh->epoch = config->epoch;
	fresh->created = now;
	session_key_of(p, &key);
	error = bpf_map_update_elem(&sessions, &key, fresh, BPF_NOEXIST);
	if (error == -EEXIST)
		return AGAIN;
	if (error)
		return refused_insertion(error);
	count(p->direction, COUNT_sessions_opened);
	if (p->direction == DIR_4TO6)
		count_inbound();
	else if (p->protocol == IPPROTO_TCP && !(p->flags & PACKET_HAIRPIN))
		count_unanswered(p);
	return GO_ON;
}

/* Remove the session that has the key of `p`, if it is over: expired, closed and at rest, or of a
 * binding that is gone. AGAIN: it is in use, or being removed. */
__noinline enum verdict make_way(struct packet *p, __u32 now)
{
	union session_life seen, gone = {};
	struct config *config;
	struct session_key key;
	struct session *old;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	session_key_of(p, &key);
	old = bpf_map_lookup_elem(&sessions, &key);
	if (!config || !old)
		return GO_ON;
	seen = session_life_of(old);
	if (!seen.expires)
		return AGAIN;
	if (seen.expires > now && closed_for(config, seen, now) < CLOSED_REST) {
		if (p->session_flags & SESSION_OVERLOAD || old->generation == p->generation)
			return AGAIN;
		if (old->flags & SESSION_OVERLOAD)
			return STOP_dropped_ports_exhausted; /* our port is lent out for this remote
							      */
	}
	if (!change_session(old, seen, gone))
		return AGAIN;
	session_ends(&key, old, seen.state, false);
	bpf_map_delete_elem(&sessions, &key);
	count(p->direction, COUNT_sessions_closed);
	return GO_ON;
}

/* Insert the session of `p`, in place of one that is over if there is one. AGAIN: one is in use. */
inline_step enum verdict place_session(struct packet *p, __u32 expires, __u32 now)
{
	enum verdict result = insert_session(p, expires, now);

	if (result != AGAIN)
		return result;
	STEP(make_way(p, now));
	return insert_session(p, expires, now);
}
