/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sessions (RFC 6146 sections 3.5.1 to 3.5.3). An expired one counts as absent to every packet;
 * nat64_sweep takes it away later. */
#pragma once

#include "bib.h"
#include "policy.h"
#include "tcp_state.h"

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
		return tcp_timers[state & (TCP_STATES - 1)];
	return protocol == IPPROTO_UDP ? TIMER_UDP : TIMER_ICMP;
}

/* Whole seconds, so one is added: no timer may run shorter than configured. */
static __always_inline __u32 expiry(const struct config *config, __u32 timer, __u32 now)
{
	return now + config->timeout[timer & (TIMER_SLOTS - 1)] + 1;
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

/* Insert the session of `p`, over an expired one of the same key if need be. */
static __noinline int insert_session(const struct packet *p, __u8 state, __u32 expires, __u16 epoch,
				     __u32 now)
{
	struct session fresh = {};
	struct session_key key;
	struct session *old;
	__u32 seen;
	long error;

	session_key_of(p, &key);
	fresh.client = p->client;
	fresh.client_port = p->client_port;
	fresh.state = state;
	fresh.flags = p->session_flags;
	fresh.generation = p->generation;
	fresh.expires = expires;
	fresh.epoch = epoch;
	fresh.created = now;
	error = bpf_map_update_elem(&sessions, &key, &fresh, BPF_NOEXIST);
	if (error == -EEXIST) {
		old = bpf_map_lookup_elem(&sessions, &key);
		seen = old ? *(volatile __u32 *)&old->expires : 0;
		if (!seen || (seen > now && old->generation == p->generation))
			return GO_ON; /* being removed, or another CPU was first */
		if (seen > now && old->flags & SESSION_OVERLOAD)
			return COUNT_dropped_ports_exhausted; /* our port, lent out to this remote
							       */
		if (__sync_val_compare_and_swap(&old->expires, seen, 0) != seen)
			return GO_ON;
		count(p->direction, COUNT_sessions_closed);
		error = bpf_map_update_elem(&sessions, &key, &fresh, BPF_ANY);
		if (error)
			bpf_map_delete_elem(&sessions, &key);
	}
	if (error)
		return COUNT_dropped_session_table_full;
	count(p->direction, COUNT_sessions_opened);
	return GO_ON;
}

/* New sessions a second (RFC 6888 REQ-8): a bucket that is full again each second. */
static __noinline int client_may_open(const struct packet *p, __u32 rate, __u32 now)
{
	union addr6 address = p->client; /* Linux 6.1 takes no key from within `p` */
	struct client *client;

	if (!rate)
		return GO_ON;
	client = bpf_map_lookup_elem(&clients, &address);
	if (!client) {
		struct client fresh = {.tokens = rate, .second = now};

		bpf_map_update_elem(&clients, &address, &fresh, BPF_NOEXIST);
		client = bpf_map_lookup_elem(&clients, &address);
		if (!client)
			return COUNT_dropped_client_session_rate;
	}
	if (client->second != now) {
		client->second = now;
		client->tokens = rate;
	}
	if (!client->tokens)
		return COUNT_dropped_client_session_rate;
	client->tokens--;
	return GO_ON;
}

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
__noinline int lend_port(struct packet *p, __u32 expires, __u32 now)
{
	struct session fresh = {.state = TCP_V6_INIT, .expires = expires, .created = now};
	struct session_key key;
	struct pool_range *range;
	struct config *config;
	__u32 slot, index;

	if (!p)
		return COUNT_dropped_internal;
	config = active_config(&slot);
	if (!config || !config->pool_ranges)
		return COUNT_dropped_ports_exhausted;
	index = slot * MAX_POOL_RANGES + client_hash(&p->client) % config->pool_ranges;
	range = bpf_map_lookup_elem(&pool, &index);
	if (!range)
		return COUNT_dropped_ports_exhausted;
	p->pool = range->address;
	p->pool_port =
		bpf_htons(range->first + bpf_get_prandom_u32() % (range->last - range->first + 1));
	p->generation = bpf_get_prandom_u32();
	p->session_flags = SESSION_CONFIRMED | SESSION_OVERLOAD;
	fresh.client = p->client;
	fresh.client_port = p->client_port;
	fresh.flags = p->session_flags;
	fresh.generation = p->generation;
	fresh.epoch = config->epoch;
	session_key_of(p, &key);
	return bpf_map_update_elem(&sessions, &key, &fresh, BPF_NOEXIST) ? AGAIN : GO_ON;
}

__noinline int open_overloaded(struct packet *p, __u32 expires, __u32 now)
{
	struct session_key session_key;
	struct overload_key key;
	struct bib6 entry = {};
	int i, result = AGAIN;

	if (!p)
		return COUNT_dropped_internal;
	for (i = 0; i < LEND_TRIES && result == AGAIN; i++)
		result = lend_port(p, expires, now);
	if (result)
		return COUNT_dropped_ports_exhausted;
	overload_key_of(p, &key);
	entry.pool = p->pool;
	entry.pool_port = p->pool_port;
	entry.generation = p->generation;
	if (bpf_map_update_elem(&overloads, &key, &entry, BPF_ANY)) {
		session_key_of(p, &session_key);
		bpf_map_delete_elem(&sessions, &session_key);
		return COUNT_dropped_session_table_full;
	}
	count(DIR_6TO4, COUNT_sessions_opened);
	count(DIR_6TO4, COUNT_ports_lent);
	return GO_ON;
}

/* What open_overloaded has set up, if anything: pool address, port and generation. */
static __noinline bool find_overloaded(struct packet *p)
{
	struct overload_key key;
	struct bib6 *entry;

	overload_key_of(p, &key);
	entry = bpf_map_lookup_elem(&overloads, &key);
	if (!entry)
		return false;
	p->pool = entry->pool;
	p->pool_port = entry->pool_port;
	p->generation = entry->generation;
	return true;
}

/* Multicast, link-local, loopback and unspecified (RFC 7915 section 5.1). */
static __always_inline bool source6_is_illegal(const union addr6 *source)
{
	if (source->bytes[0] == 0xff || (source->bytes[0] == 0xfe && source->bytes[1] >> 6 == 2))
		return true;
	return !source->halves[0] && bpf_be64_to_cpu(source->halves[1]) <= 1;
}

/* A packet from the IPv6 side that has no session. */
__noinline int open_from_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct config *config;
	__u32 slot, now, expires;
	__u8 state = 0;
	int refusal;

	if (!p)
		return COUNT_dropped_internal;
	config = active_config(&slot);
	if (!config)
		return COUNT_dropped_not_configured;
	now = now_seconds();
	if (source6_is_illegal(&p->client))
		return COUNT_dropped_source_illegal;

	if (p->protocol == IPPROTO_TCP) {
		if (tcp_event(p->tcp_flags) != TCP_SYN) {
			/* translated where a binding exists, and makes no session */
			if (!find_binding(p, 1))
				return COUNT_dropped_tcp_without_session;
			return check_policy(skb, p);
		}
		state = TCP_V6_INIT;
	}
	expires = expiry(config, timer_of(p->protocol, state), now);

	STEP(check_policy(skb, p));
	STEP(client_may_open(p, config->session_rate_per_client, now));
	refusal = get_binding(p, config->ports_per_client, expires, now);
	if (refusal == COUNT_dropped_ports_exhausted && p->protocol == IPPROTO_TCP &&
	    config->flags & CONFIG_OVERLOAD_TCP && !(p->flags & PACKET_HAIRPIN))
		return open_overloaded(p, expires, now);
	if (refusal)
		return refusal;

	p->session_flags = SESSION_CONFIRMED | (p->flags & PACKET_HAIRPIN ? SESSION_HAIRPIN : 0);
	if (keeps_contacts(config, p))
		note_contact(p, expires);
	return insert_session(p, state, expires, config->epoch, now);
}

static __always_inline bool source_is_illegal(__be32 address)
{
	__u32 first = bpf_ntohl(address) >> 24;

	return first == 0 || first == 127 || first >= 224;
}

static __noinline bool knows_contact(const struct packet *p, __u32 now)
{
	struct session_key key;
	struct session *contact;

	session_key_of(p, &key);
	key.remote_port = 0;
	contact = bpf_map_lookup_elem(&sessions, &key);
	return contact && contact->generation == p->generation && contact->expires > now;
}

/* A packet from the IPv4 side that has no session: its binding decides (RFC 6146 section 3.5). */
__noinline int open_from_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct config *config;
	struct bib4_key key;
	struct bib4 *binding;
	__u32 slot, now, expires;
	__u8 state = 0;

	if (!p)
		return COUNT_dropped_internal;
	config = active_config(&slot);
	if (!config)
		return COUNT_dropped_not_configured;
	now = now_seconds();
	bib4_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib4, &key);
	if (!binding || (!(binding->flags & BIB_STATIC) && binding->expires <= now))
		return COUNT_passed;
	p->client = binding->client;
	p->client_port = binding->client_port;
	p->generation = binding->generation;

	if (source_is_illegal(p->remote))
		return COUNT_dropped_source_illegal;
	STEP(check_policy(skb, p));
	if (p->protocol == IPPROTO_TCP) {
		state = TCP_V4_INIT;
		if (tcp_event(p->tcp_flags) != TCP_SYN) {
			if (keeps_contacts(config, p) && !knows_contact(p, now))
				return COUNT_dropped_filtered;
			return GO_ON;
		}
	}
	if (config->flags & CONFIG_ADDRESS_DEPENDENT && !(binding->flags & BIB_STATIC) &&
	    !knows_contact(p, now)) {
		if (p->protocol == IPPROTO_TCP) {
			/* remembered for a while: the client may be opening from its side too */
			p->session_flags = SESSION_PENDING;
			insert_session(p, TCP_V4_INIT, expiry(config, TIMER_TCP_INCOMING_SYN, now),
				       config->epoch, now);
		}
		return COUNT_dropped_filtered;
	}
	expires = expiry(config, timer_of(p->protocol, state), now);
	if (!bib4_extend(p, expires))
		return COUNT_passed;
	p->session_flags = p->flags & PACKET_HAIRPIN ? SESSION_HAIRPIN : 0;
	p->flags |= PACKET_SLOW; /* see use_session: the client hasn't answered yet */
	return insert_session(p, state, expires, config->epoch, now);
}

/* Write the new expiry: the binding's first, so that it never dies before its session. */
static __noinline void refresh(struct session *session, const struct packet *p,
			       const struct config *config, __u32 expires)
{
	if (!(session->flags & SESSION_OVERLOAD) && !bib4_extend(p, expires))
		return;
	if (keeps_contacts(config, p))
		note_contact(p, expires);
	/* a closing session must end earlier than it would have, so not extend() */
	__u32 seen = *(volatile __u32 *)&session->expires;
	if (seen)
		__sync_val_compare_and_swap(&session->expires, seen, expires);
}

/* Let a packet move its session on. What is written, is written at most once a second. */
inline_step int use_session(struct __sk_buff *skb, const struct config *config, struct packet *p,
			    struct session *session, __u32 now)
{
	__u8 state = session->state, next = 0;
	__u32 expires;

	if (session->flags & SESSION_HAIRPIN)
		p->flags |= PACKET_HAIRPIN;
	p->session_flags = session->flags;
	p->generation = session->generation;
	if (session->epoch != config->epoch) {
		STEP(check_policy(skb, p));
		session->epoch = config->epoch;
	}
	if (p->direction == DIR_6TO4 && !(session->flags & SESSION_CONFIRMED))
		session->flags |= SESSION_CONFIRMED;
	if (p->direction == DIR_4TO6 && !(session->flags & SESSION_CONFIRMED)) {
		if (session->flags & SESSION_PENDING)
			return COUNT_dropped_filtered;
		/* until the client answers, its packet filters are asked about each packet */
		p->flags |= PACKET_SLOW;
	}
	if (p->protocol == IPPROTO_TCP) {
		next = tcp_next(state, p->direction, p->tcp_flags);
		if ((next & ~HOLD) != state)
			session->state = next & ~HOLD;
		if (next & HOLD)
			return GO_ON;
	}
	expires = expiry(config, timer_of(p->protocol, next), now);
	if (session->expires != expires)
		refresh(session, p, config, expires);
	return GO_ON;
}
