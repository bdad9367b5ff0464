/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that have no session: what becomes of them, and whether they open one (RFC 6146 section
 * 3.5). */
#pragma once

#include "overload.h"
#include "session.h"

/* New sessions a second (RFC 6888 REQ-8): a bucket that is full again each second. There is one for
 * each side, so that strangers don't use up the client's own. */
static __noinline enum verdict client_may_open(const struct packet *p, __u32 rate, __u32 now)
{
	union addr6 address = p->client; /* a key on the stack: see verifier.h */
	struct client *client;
	__u32 *tokens;

	if (!rate)
		return GO_ON;
	client = bpf_map_lookup_elem(&clients, &address);
	if (!client) {
		struct client fresh = {.tokens = rate, .inbound_tokens = rate, .second = now};

		bpf_map_update_elem(&clients, &address, &fresh, BPF_NOEXIST);
		client = bpf_map_lookup_elem(&clients, &address);
		if (!client)
			return STOP_dropped_client_session_rate;
	}
	if (client->second != now) {
		client->second = now;
		client->tokens = client->inbound_tokens = rate;
	}
	tokens = p->direction == DIR_6TO4 ? &client->tokens : &client->inbound_tokens;
	if (!*tokens)
		return STOP_dropped_client_session_rate;
	--*tokens;
	return GO_ON;
}

/* Anybody may send to a mapped port, each from as many addresses as he can forge. What the table
 * holds of that is bounded, so that clients can always open theirs. */
static __noinline enum verdict stranger_may_open(const struct packet *p,
						 const struct config *config, __u32 now)
{
	__u32 zero = 0;
	struct shared *all = bpf_map_lookup_elem(&shared, &zero);

	if (!all || all->inbound_sessions >= config->inbound_sessions)
		return STOP_dropped_inbound_session_limit;
	return client_may_open(p, config->session_rate_per_client, now);
}

/* A packet from the IPv6 side that has no session. */
__noinline enum verdict open_from_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct config *config;
	__u32 slot, now, expires;
	__u8 state = 0;
	enum verdict refusal;

	REQUIRE(p, STOP_dropped_internal);
	config = active_config(&slot);
	if (!config)
		return STOP_dropped_not_configured;
	now = now_seconds();
	if (source6_is_illegal(&p->client))
		return STOP_dropped_source_illegal;

	if (p->protocol == IPPROTO_TCP) {
		if (tcp_event(p->tcp_flags) != TCP_SYN) {
			/* translated where a binding exists, and makes no session */
			if (!find_binding(p, 1))
				return STOP_dropped_tcp_without_session;
			return check_policy(skb, p);
		}
		state = TCP_V6_INIT;
	}
	expires = expiry(config, timer_of(p->protocol, state), now);

	STEP(check_policy(skb, p));
	STEP(client_may_open(p, config->session_rate_per_client, now));
	refusal = get_binding(p, config->ports_per_client, expires, now);
	if (refusal == STOP_dropped_ports_exhausted && p->protocol == IPPROTO_TCP &&
	    config->flags & CONFIG_OVERLOAD_TCP && !(p->flags & PACKET_HAIRPIN))
		return open_overloaded(p, expires, now);
	if (refusal)
		return refusal;

	p->session_flags = SESSION_CONFIRMED | (p->flags & PACKET_HAIRPIN ? SESSION_HAIRPIN : 0);
	if (p->flags & PACKET_FROM_OUTSIDE)
		p->session_flags |= SESSION_OUTSIDE;
	if (keeps_contacts(config, p))
		note_contact(p, expires);
	return insert_session(p, state, expires, config->epoch, now);
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
__noinline enum verdict open_from_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct config *config;
	struct bib4_key key;
	struct bib4 *binding;
	__u32 slot, now, expires;
	__u8 state = 0;

	REQUIRE(p, STOP_dropped_internal);
	config = active_config(&slot);
	if (!config)
		return STOP_dropped_not_configured;
	now = now_seconds();
	bib4_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib4, &key);
	if (!binding || (!(binding->flags & BIB_STATIC) && binding->expires <= now))
		return STOP_passed;
	p->client = binding->client;
	p->client_port = binding->client_port;
	p->generation = binding->generation;

	if (source_is_illegal(p->remote))
		return STOP_dropped_source_illegal;
	STEP(check_policy(skb, p));
	if (p->protocol == IPPROTO_TCP) {
		state = TCP_V4_INIT;
		if (tcp_event(p->tcp_flags) != TCP_SYN) {
			if (keeps_contacts(config, p) && !knows_contact(p, now))
				return STOP_dropped_filtered;
			p->flags |= PACKET_SLOW; /* past the node's packet filters, as its SYN */
			return GO_ON;
		}
	}
	p->session_flags = p->flags & PACKET_HAIRPIN ? SESSION_HAIRPIN : 0;
	if (config->flags & CONFIG_ADDRESS_DEPENDENT && !(binding->flags & BIB_STATIC) &&
	    !knows_contact(p, now)) {
		if (p->protocol == IPPROTO_TCP && !stranger_may_open(p, config, now)) {
			/* remembered for a while: the client may be opening from its side too */
			p->session_flags |= SESSION_PENDING;
			insert_session(p, TCP_V4_INIT, expiry(config, TIMER_TCP_INCOMING_SYN, now),
				       config->epoch, now);
		}
		return STOP_dropped_filtered;
	}
	STEP(stranger_may_open(p, config, now));
	expires = expiry(config, timer_of(p->protocol, state), now);
	if (!bib4_extend(p, expires))
		return STOP_passed;
	p->flags |= PACKET_SLOW; /* see use_session: the client hasn't answered yet */
	return insert_session(p, state, expires, config->epoch, now);
}
