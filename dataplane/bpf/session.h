/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sessions (RFC 6146 sections 3.5.1 to 3.5.3). An expired one counts as absent to every packet;
 * nat64_sweep takes it away later. */
#pragma once

#include "policy.h"
#include "recent.h"

#define SPARE_SHARE 8 /* of a timer; at most MOST_SPARE */
#define CLOSED_REST                                                                                \
	4 /* seconds for which a closed session is left alone: what is under way arrives */

static __always_inline void session_key_of(const struct packet *p, struct session_key *key)
{
	key->pool = p->pool;
	key->remote = p->remote;
	key->pool_port = p->pool_port;
	key->remote_port = p->remote_port;
	key->protocol = p->protocol;
	key->pad[0] = key->pad[1] = key->pad[2] = 0;
}

static __always_inline __u32 timer_of(__u8 protocol, __u8 state)
{
	if (protocol == IPPROTO_TCP)
		return tcp_timers[index_below(state, TCP_STATES)];
	return protocol == IPPROTO_UDP ? TIMER_UDP : TIMER_ICMP;
}

/* Whole seconds, so one is added: no timer may run shorter than configured. */
static __always_inline __u32 expiry(const struct config *config, __u32 timer, __u32 now)
{
	return now + config->timeout[index_below(timer, TIMER_SLOTS)] + 1;
}

static __always_inline union session_life session_life_of(const struct session *session)
{
	union session_life seen = {.word = *(volatile __u64 *)&session->life.word};

	return seen;
}

static __always_inline bool change_session(struct session *session, union session_life from,
					   union session_life to)
{
	return __sync_val_compare_and_swap(&session->life.word, from.word, to.word) == from.word;
}

/* Note that the client has talked to this remote address: address-dependent filtering asks. One
 * that is being removed is left alone: who removes it would remove what replaces it. */
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
	if (contact && !contact->life.expires)
		return;
	fresh.client = p->client;
	fresh.client_port = p->client_port;
	fresh.flags = SESSION_CONTACT;
	fresh.generation = p->generation;
	fresh.life.expires = expires;
	bpf_map_update_elem(&sessions, &key, &fresh, contact ? BPF_ANY : BPF_NOEXIST);
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

static __always_inline bool is_client_of(const struct session *session, const struct packet *p)
{
	return session->client_port == p->client_port && addr6_equal(&session->client, &p->client);
}

/* Whether it counts among those that its client has opened and that are not at rest. */
static __always_inline bool is_of_client_limit(__u8 flags)
{
	return !(flags & (SESSION_INBOUND | SESSION_CONTACT));
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
	struct overload *entry = bpf_map_lookup_elem(&overloads, &name);

	if (entry && entry->pool == key->pool && entry->pool_port == key->pool_port)
		bpf_map_delete_elem(&overloads, &name);
}

/* Take a session out of all counts. For who has taken it over, with the state that it ended in.
 * True where its binding went with it, which is done where `unused` says so. */
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
		count_closed(&session->client, false);
	return bib4_leave(&name, session->generation, unused);
}

/* Become the one who may remove a session, if it has expired `before`, or regardless of that. */
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

/* Since when both ends have been done with a session, in seconds; 0 where they are not. */
static __always_inline __u32 closed_for(const struct config *config, union session_life life,
					__u32 now)
{
	__u32 closed = life.expires - config->timeout[TIMER_TCP_TRANSITORY] - 1;

	return life.state & TCP_SHUT && closed < now ? now - closed : 0;
}

/* Insert the session of `p`. AGAIN: there is one of its key. */
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
	fresh->flags = p->session_flags;
	if (p->direction == DIR_4TO6)
		fresh->flags |= SESSION_INBOUND;
	if (p->protocol == IPPROTO_TCP)
		fresh->life.state = p->direction == DIR_4TO6 ? TCP_V4_INIT : TCP_V6_INIT;
	fresh->life.expires = expires;
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
	return GO_ON;
}

/* Remove the session that stands where that of `p` is to be, if it is over: expired, closed and at
 * rest, or of a binding that is no more. AGAIN: it is in use, or being removed. */
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
			return STOP_dropped_ports_exhausted; /* our port, lent out to this remote */
	}
	if (!change_session(old, seen, gone))
		return AGAIN;
	session_ends(&key, old, seen.state, false);
	bpf_map_delete_elem(&sessions, &key);
	count(p->direction, COUNT_sessions_closed);
	return GO_ON;
}

/* Insert the session of `p`, in place of one that is over if need be. AGAIN: there is one. */
inline_step enum verdict place_session(struct packet *p, __u32 expires, __u32 now)
{
	enum verdict result = insert_session(p, expires, now);

	if (result != AGAIN)
		return result;
	STEP(make_way(p, now));
	return insert_session(p, expires, now);
}

/* Both ends are done with the session of `p`. */
static __noinline void session_closes(const struct packet *p, __u32 now)
{
	struct closed_session entry = {};

	if (is_of_client_limit(p->session_flags))
		client_gives(&p->client, HOLDS_SESSION);
	if (!(p->session_flags & SESSION_OVERLOAD))
		count_closed(&p->client, true);
	session_key_of(p, &entry.key);
	entry.generation = p->generation;
	entry.second = now;
	bpf_map_push_elem(&closed, &entry, BPF_EXIST);
}

/* A packet has shown that it isn't so. It had its place, and has it again whatever the limit. */
static __noinline void session_reopens(const struct packet *p)
{
	if (is_of_client_limit(p->session_flags))
		client_takes(&p->client, HOLDS_SESSION);
	if (!(p->session_flags & SESSION_OVERLOAD))
		count_closed(&p->client, false);
}

/* Keep the binding and the contact of a session alive for as long as itself. False where there is
 * no such binding any more. */
static __noinline bool keep_binding(struct session *session, struct packet *p, __u32 expires)
{
	__u32 generation = session->generation;

	if (session->flags & SESSION_OVERLOAD)
		return true; /* a lent port has a binding and contacts, but they are its owner's */
	if (!bib4_extend(p, expires, 0))
		return false;
	/* a binding made anew: the session is its own now */
	if (p->generation != generation &&
	    __sync_val_compare_and_swap(&session->generation, generation, p->generation) ==
		    generation)
		bib4_extend(p, expires, 1);
	return true;
}

/* For how many seconds beyond its timer a session is kept, so that its expiry need not be written
 * with every second in which it is used: the writes of a million sessions find no cache. */
static __always_inline __u32 spare(const struct config *config, __u32 timer)
{
	__u32 seconds = config->timeout[index_below(timer, TIMER_SLOTS)] / SPARE_SHARE;

	return seconds < MOST_SPARE ? seconds : MOST_SPARE;
}

/* The life of a session after packet `p`. */
static __always_inline union session_life
next_life(const struct config *config, const struct packet *p, union session_life seen, __u32 now)
{
	union session_life next = seen;
	__u32 expires, latest, timer;
	__u8 step = 0;

	if (p->protocol == IPPROTO_TCP) {
		step = tcp_next(seen.state, p->direction, p->tcp_flags);
		next.state = step & ~HOLD;
		if (step & HOLD)
			return next;
	}
	timer = timer_of(p->protocol, next.state);
	expires = expiry(config, timer, now);
	latest = expires + (is_steady(p, next.state) ? spare(config, timer) : 0);
	if (seen.expires < expires || seen.expires > latest)
		next.expires = latest;
	return next;
}

/* What a stranger sends to a client that hasn't answered him keeps nothing alive beyond what the
 * client's own sessions have asked for. */
static __always_inline bool is_unconfirmed(const struct packet *p)
{
	return p->direction == DIR_4TO6 && !(p->session_flags & SESSION_CONFIRMED);
}

/* Write what `p` makes of its session: state and expiry in one word, or neither. The binding comes
 * first, so that it never dies before its session; one that gets shorter is covered as it is. */
__noinline enum verdict move_session(struct packet *p, struct session *session, __u32 now)
{
	struct config *config;
	__u32 *moved;
	int i;

	REQUIRE(p, STOP_dropped_internal);
	REQUIRE(session, STOP_dropped_internal);
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	for (i = 0; i < LIFE_TRIES; i++) {
		union session_life seen = session_life_of(session), next;
		__u32 most;

		if (!seen.expires)
			return GO_ON; /* being removed */
		next = next_life(config, p, seen, now);
		if (is_unconfirmed(p)) {
			most = bib4_expires(p);
			if (next.expires > most)
				next.expires = most > seen.expires ? most : seen.expires;
		} else if (next.expires > seen.expires && !keep_binding(session, p, next.expires)) {
			return GO_ON;
		}
		if (next.word == seen.word)
			return GO_ON;
		if (!change_session(session, seen, next))
			continue;
		if (!is_unconfirmed(p) && next.expires != seen.expires &&
		    keeps_contacts(config, p) && !(p->session_flags & SESSION_OVERLOAD))
			note_contact(p, next.expires);
		if (next.state == seen.state)
			return GO_ON;
		moved = moves_of(p);
		if (moved)
			__sync_fetch_and_add(moved, 1);
		if (seen.state == TCP_ESTABLISHED)
			forget_recent(p);
		if (next.state & ~seen.state & TCP_SHUT)
			session_closes(p, now);
		else if (seen.state & ~next.state & TCP_SHUT)
			session_reopens(p);
		return GO_ON;
	}
	return GO_ON;
}

/* Let a packet move its session on. What is written, is written at most once a second. */
inline_step enum verdict use_session(struct __sk_buff *skb, const struct config *config,
				     struct packet *p, struct session *session, __u32 now)
{
	union session_life seen, next;

	remember_moves(p, now); /* before the state is read */
	seen = session_life_of(session);
	if (session->flags & SESSION_HAIRPIN) {
		if (is_spoofed_hairpin(skb, p))
			return STOP_dropped_source_illegal;
		p->flags |= PACKET_HAIRPIN;
	}
	p->session_flags = session->flags;
	p->generation = session->generation;
	if (p->flags & PACKET_FROM_OUTSIDE && !(session->flags & SESSION_OUTSIDE)) {
		STEP(check_policy(skb, p)); /* whoever opened it, this may be another's packet */
		session->flags |= SESSION_OUTSIDE;
		p->session_flags = session->flags;
	}
	if (session->epoch != config->epoch) {
		STEP(check_policy(skb, p));
		session->epoch = config->epoch;
	}
	if (p->direction == DIR_6TO4 && !(session->flags & SESSION_CONFIRMED))
		session->flags |= SESSION_CONFIRMED;
	if (is_unconfirmed(p)) {
		if (session->flags & SESSION_PENDING)
			return STOP_dropped_filtered;
		if (bib4_expires(p) <= now)
			return STOP_passed;
		/* until the client answers, its packet filters are asked about each packet */
		p->flags |= PACKET_SLOW;
	}
	next = next_life(config, p, seen, now);
	if (next.word != seen.word)
		STEP(move_session(p, session, now));
	if (is_steady(p, next.state)) {
		__u32 timer = timer_of(p->protocol, next.state);

		p->flags |= PACKET_STEADY;
		p->fresh_until = now + (next.expires - expiry(config, timer, now)) + 1;
	}
	return GO_ON;
}
