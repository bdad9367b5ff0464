/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sessions (RFC 6146 sections 3.5.1 to 3.5.3). An expired one counts as absent to every packet;
 * nat64_sweep takes it away later. */
#pragma once

#include "policy.h"
#include "recent.h"

#define SPARE_SHARE 8 /* of a timer; at most MOST_SPARE */

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

/* Note that the client has talked to this remote address: address-dependent filtering asks. */
static __noinline void note_contact(const struct packet *p, __u32 expires)
{
	struct session fresh = {};
	struct session_key key;
	struct session *contact;

	session_key_of(p, &key);
	key.remote_port = 0;
	contact = bpf_map_lookup_elem(&sessions, &key);
	if (contact && contact->generation == p->generation && extend(&contact->expires, expires))
		return;
	fresh.client = p->client;
	fresh.client_port = p->client_port;
	fresh.flags = SESSION_CONTACT;
	fresh.generation = p->generation;
	fresh.expires = expires;
	bpf_map_update_elem(&sessions, &key, &fresh, contact ? BPF_ANY : BPF_NOEXIST);
}

static __always_inline bool keeps_contacts(const struct config *config, const struct packet *p)
{
	return config->flags & CONFIG_ADDRESS_DEPENDENT && p->protocol != IPPROTO_ICMP;
}

static __always_inline void count_inbound(void)
{
	__u32 zero = 0;
	struct shared *all = bpf_map_lookup_elem(&shared, &zero);

	if (all)
		__sync_fetch_and_add(&all->inbound_sessions, 1);
}

/* Insert the session of `p`, over an expired one of the same key if need be. AGAIN: it was to
 * borrow a port that is in use towards this remote end. */
static __noinline enum verdict insert_session(const struct packet *p, __u8 state, __u32 expires,
					      __u16 epoch, __u32 now)
{
	bool borrows = p->session_flags & SESSION_OVERLOAD;
	struct session fresh = {};
	struct session_key key;
	struct session *old;
	__u32 seen;
	int error;

	session_key_of(p, &key);
	fresh.client = p->client;
	fresh.client_port = p->client_port;
	fresh.state = state;
	fresh.flags = p->session_flags;
	if (p->direction == DIR_4TO6)
		fresh.flags |= SESSION_INBOUND;
	fresh.generation = p->generation;
	fresh.expires = expires;
	fresh.epoch = epoch;
	fresh.created = now;
	error = bpf_map_update_elem(&sessions, &key, &fresh, BPF_NOEXIST);
	if (error == -EEXIST) {
		old = bpf_map_lookup_elem(&sessions, &key);
		seen = old ? *(volatile __u32 *)&old->expires : 0;
		if (borrows && (!seen || seen > now))
			return AGAIN;
		if (!seen || (seen > now && old->generation == p->generation))
			return GO_ON; /* being removed, or another CPU was first */
		if (seen > now && old->flags & SESSION_OVERLOAD)
			return STOP_dropped_ports_exhausted; /* our port, lent out to this remote
							      */
		if (__sync_val_compare_and_swap(&old->expires, seen, 0) != seen)
			return borrows ? AGAIN : GO_ON;
		count(p->direction, COUNT_sessions_closed);
		error = bpf_map_update_elem(&sessions, &key, &fresh, BPF_ANY);
		if (error)
			bpf_map_delete_elem(&sessions, &key);
	}
	if (error)
		return refused_insertion(error);
	count(p->direction, COUNT_sessions_opened);
	if (fresh.flags & SESSION_INBOUND)
		count_inbound();
	return GO_ON;
}

static __always_inline bool is_client_of(const struct session *session, const struct packet *p)
{
	return session->client_port == p->client_port && addr6_equal(&session->client, &p->client);
}

/* Write the new expiry: the binding's first, so that it never dies before its session. One that
 * gets shorter is covered by the binding as it is. */
static __noinline void refresh(struct session *session, struct packet *p,
			       const struct config *config, __u32 expires)
{
	__u32 seen = *(volatile __u32 *)&session->expires;

	/* a lent port has a binding and contacts, but they are its owner's */
	if (!(session->flags & SESSION_OVERLOAD)) {
		if (expires > seen) {
			if (!bib4_extend(p, expires))
				return;
			session->generation = p->generation; /* of a binding made anew */
		}
		if (keeps_contacts(config, p))
			note_contact(p, expires);
	}
	/* a closing session must end earlier than it would have, so not extend() */
	if (seen)
		__sync_val_compare_and_swap(&session->expires, seen, expires);
}

/* For how many seconds beyond its timer a session is kept, so that its expiry need not be written
 * with every second in which it is used: the writes of a million sessions find no cache. */
static __always_inline __u32 spare(const struct config *config, __u32 timer)
{
	__u32 seconds = config->timeout[index_below(timer, TIMER_SLOTS)] / SPARE_SHARE;

	return seconds < MOST_SPARE ? seconds : MOST_SPARE;
}

/* Let a packet move its session on. What is written, is written at most once a second. */
inline_step enum verdict use_session(struct __sk_buff *skb, const struct config *config,
				     struct packet *p, struct session *session, __u32 now)
{
	__u32 *moved = remember_moves(p, now); /* before the state is read */
	__u32 expires, latest, timer;
	__u8 state, next = 0;
	bool steady;

	state = *(volatile __u8 *)&session->state;

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
	if (p->direction == DIR_4TO6 && !(session->flags & SESSION_CONFIRMED)) {
		if (session->flags & SESSION_PENDING)
			return STOP_dropped_filtered;
		/* until the client answers, its packet filters are asked about each packet */
		p->flags |= PACKET_SLOW;
	}
	if (p->protocol == IPPROTO_TCP) {
		next = tcp_next(state, p->direction, p->tcp_flags);
		if ((next & ~HOLD) != state) {
			session->state = next & ~HOLD;
			if (moved)
				__sync_fetch_and_add(moved, 1);
			if (state == TCP_ESTABLISHED)
				forget_recent(p);
		}
		if (next & HOLD)
			return GO_ON;
	}
	timer = timer_of(p->protocol, next);
	expires = expiry(config, timer, now);
	steady = is_steady(p, next);
	latest = expires + (steady ? spare(config, timer) : 0);
	if (session->expires < expires || session->expires > latest)
		refresh(session, p, config, latest);
	if (steady) {
		p->flags |= PACKET_STEADY;
		p->fresh_until = now + (session->expires - expires) + 1;
	}
	return GO_ON;
}
