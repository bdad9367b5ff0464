/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sessions as they are looked up: keys, timers, the word with state and expiry, and the zone that a
 * session was opened in. */
#pragma once

#include "bib.h"
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

static __always_inline bool is_client_of(const struct session *session, const struct packet *p)
{
	return session->client_port == p->client_port && addr6_equal(&session->client, &p->client);
}

/* The session of `p`, whose pool address is known, if it is live. */
static __always_inline bool session_is_live(struct packet *p)
{
	struct session_key key;
	struct session *session;

	session_key_of(p, &key);
	session = bpf_map_lookup_elem(&sessions, &key);
	if (!session || !is_client_of(session, p) || session->life.expires <= now_seconds())
		return false;
	p->session_flags = (session->flags & ~SESSION_CLAT) | (p->session_flags & SESSION_CLAT);
	return true;
}

/* Whether `p`, from IPv6, has a session in p->zone. */
static __noinline bool is_of_zone(struct packet *p)
{
	struct bib6_key key;
	struct bib6 *binding;

	bib6_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib6, &key);
	if (!binding)
		return false;
	use_bib6(binding, p);
	return session_is_live(p);
}

/* Set p->zone to the zone in which `p`, from IPv6, has its session, whatever the routes are now.
 * False if it has none. */
__noinline bool find_zone(struct packet *p)
{
	struct config *config;
	__u32 i;

	REQUIRE(p, false);
	config = config_of(p);
	if (!config)
		return false;
	p->zone = config->zone;
	if (is_of_zone(p))
		return true;
	if (!(config->flags & CONFIG_ZONES))
		return false;
	for (i = 0; i < MAX_ZONES; i++) {
		if (!config->zones[i].ranges || i == config->zone)
			continue;
		p->zone = i;
		if (is_of_zone(p))
			return true;
	}
	p->zone = config->zone;
	p->pool = p->pool_port = 0;
	return false;
}
