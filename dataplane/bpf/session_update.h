/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a packet does to the session that it belongs to: it moves the TCP state and the expiry
 * (RFC 6146 section 3.5.2.2), and it keeps the binding and the contact alive. */
#pragma once

#include "policy.h"
#include "recent.h"
#include "session.h"

#define SPARE_SHARE 8 /* this fraction of a timer is spare; at most MOST_SPARE */

/* Both ends have finished with the session of `p`. One that borrows its port can't give it back, so
 * it isn't queued. One that was in use again after it was closed has its place still. */
static __noinline void session_closes(const struct packet *p, struct session *session, __u32 places,
				      __u32 now)
{
	struct client *client = client_of(&p->client);
	struct closed_session entry = {};

	if (client && is_of_client_limit(p->session_flags))
		client_gave(client, HOLDS_SESSION);
	if (p->session_flags & SESSION_OVERLOAD)
		return;
	count_closed(client, p->zone, true);
	if (session->queued || !may_wait_in_queue(client, places))
		return;
	session->queued = 1;
	session_key_of(p, &entry.key);
	entry.generation = p->generation;
	entry.second = now;
	bpf_map_push_elem(&closed, &entry, BPF_EXIST);
}

/* A packet has shown that the session is in use again. It had its place, so it gets it back
 * whatever the limit is. */
static __noinline void session_reopens(const struct packet *p)
{
	if (is_of_client_limit(p->session_flags))
		client_takes(&p->client, HOLDS_SESSION);
	if (!(p->session_flags & SESSION_OVERLOAD))
		count_closed(client_of(&p->client), p->zone, false);
}

/* Keep the binding of a session alive as long as the session. False if the binding is gone. */
static __noinline bool keep_binding(struct session *session, struct packet *p, __u32 expires)
{
	__u32 generation = session->generation;

	if (session->flags & SESSION_OVERLOAD)
		return true; /* the binding and the contacts of a lent port are its owner's */
	if (!bib4_extend(p, expires, 0))
		return false;
	/* the binding was made anew: the session belongs to the new one now */
	if (p->generation != generation &&
	    __sync_val_compare_and_swap(&session->generation, generation, p->generation) ==
		    generation)
		bib4_extend(p, expires, 1);
	return true;
}

/* For how many seconds beyond its timer a session is kept, so that its expiry need not be written
 * in every second in which it is used. With a million sessions, each of these writes would miss the
 * caches. */
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

/* Whether a stranger sends to a client that hasn't answered him. Such a packet keeps nothing alive
 * beyond what the client's own sessions have asked for. */
static __always_inline bool is_unconfirmed(const struct packet *p)
{
	return p->direction == DIR_4TO6 && !(p->session_flags & SESSION_CONFIRMED);
}

/* Write what `p` changes in its session: state and expiry in one word, so both or neither. The
 * binding is extended first, so that it never ends before its session. If the session's expiry gets
 * shorter, the binding needs no change. */
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
		if (p->direction == DIR_4TO6)
			note_answer(p);
		if (next.state & ~seen.state & TCP_SHUT)
			session_closes(p, session, config->closed_places, now);
		else if (seen.state & ~next.state & TCP_SHUT)
			session_reopens(p);
		return GO_ON;
	}
	return GO_ON;
}

/* Let the session of `p` answer from the other prefix, by which the client sends now. Both prefixes
 * of a client share its mapping, so two sockets with the same port and remote end share one
 * session, and the one that has sent last gets the answers. A connection of TCP is never taken over
 * like this. */
static __noinline enum verdict change_prefix(struct packet *p, struct session *session)
{
	__u8 state = session_life_of(session).state & ~TCP_SHUT;
	__u32 *moved;

	if (p->protocol == IPPROTO_TCP) {
		if (!has_syn(p->tcp_flags))
			return STOP_dropped_tcp_without_session;
		if (state == TCP_ESTABLISHED || state == TCP_V4_FIN || state == TCP_V6_FIN)
			return STOP_dropped_ports_exhausted; /* of its one port, to this remote */
	}
	session->flags = (session->flags & ~SESSION_CLAT) | (p->session_flags & SESSION_CLAT);
	moved = moves_of(p);
	if (moved)
		__sync_fetch_and_add(moved, 1);
	forget_recent(p);
	return GO_ON;
}

/* What the routes can carry is asked for each SYN; the answer to it gets the same. */
static __always_inline void use_segment(struct session *session, struct packet *p)
{
	if (tcp_event(p->tcp_flags) == TCP_SYN_ACK)
		p->segment = session->life.segment;
	else
		session->life.segment = 0; /* whoever moves the session meanwhile tries again */
}

/* Let a packet update its session. Expiries are written at most once a second. */
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
	p->zone = session->zone;
	if (p->direction == DIR_6TO4 && (session->flags ^ p->session_flags) & SESSION_CLAT)
		STEP(change_prefix(p, session));
	p->session_flags = session->flags;
	p->generation = session->generation;
	if (p->flags & PACKET_FROM_OUTSIDE && !(session->flags & SESSION_OUTSIDE)) {
		STEP(check_policy(skb,
				  p)); /* another host than the client may have sent this packet */
		session->flags |= SESSION_OUTSIDE;
		p->session_flags = session->flags;
	}
	if (session->epoch != config->epoch) {
		STEP(check_policy(skb, p));
		session->epoch = config->epoch;
	}
	if (p->direction == DIR_6TO4 && !(session->flags & SESSION_CONFIRMED)) {
		session->flags |=
			SESSION_CONFIRMED; /* from now on its binding lives as long as it does */
		keep_binding(session, p, seen.expires);
	}
	if (is_unconfirmed(p)) {
		if (session->flags & SESSION_PENDING)
			return STOP_dropped_filtered;
		if (bib4_expires(p) <= now)
			return STOP_passed;
		/* until the client answers, each packet goes through the node's packet filters */
		p->flags |= PACKET_SLOW;
	}
	if (p->protocol == IPPROTO_TCP && p->tcp_flags & TCP_FLAG_SYN_BIT)
		use_segment(session, p);
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
