/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments (RFC 6146 section 3.4). Only the first fragment has ports; what it led to is stored for
 * the others. Nothing is reassembled. */
#pragma once

#include "session.h"

static __always_inline void fragment_key_of(const struct packet *p, struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	if (p->direction == DIR_6TO4) {
		key->source = p->client;
		key->destination = p->remote6;
	} else {
		key->source.words[3] = p->remote;
		key->destination.words[3] = p->pool;
	}
	key->identification = p->identification;
	key->protocol = p->protocol;
	key->direction = p->direction;
}

/* What the first fragment of this packet has led to. */
__noinline enum fragment_fate fragment_fate(struct packet *p)
{
	struct fragment_key key;
	struct fragment *known;

	REQUIRE(p, FRAGMENT_UNKNOWN);
	fragment_key_of(p, &key);
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known || known->expires <= now_seconds())
		return FRAGMENT_UNKNOWN;
	if (p->direction == DIR_6TO4) {
		p->pool = known->pool;
	} else {
		p->client = known->client;
		p->client_port = known->client_port;
		p->identification = known->identification;
		p->session_flags = known->clat;
	}
	if (p->flags & PACKET_FROM_OUTSIDE && !known->outside)
		return FRAGMENT_DROP;
	if (known->hairpin)
		p->flags |= PACKET_HAIRPIN;
	if (known->refragmented)
		p->flags |= PACKET_REFRAGMENT;
	return known->fate;
}

/* A fragment goes to the fragmenter: send those after it the same way, so that none overtakes
 * another. Some receivers need the first one first (Cilium drops fragments that come before it). */
static __always_inline void note_refragmented(const struct packet *p)
{
	struct fragment_key key;
	struct fragment *known;

	fragment_key_of(p, &key);
	known = bpf_map_lookup_elem(&fragments, &key);
	if (known)
		known->refragmented = 1;
}

/* Store for the other fragments what the first one led to. `identification` is for their IPv6
 * Fragment headers. */
__noinline enum verdict remember_fragment(struct packet *p, enum fragment_fate fate,
					  __u32 identification)
{
	struct fragment known = {};
	struct fragment_key key;
	struct fragment *before;
	struct config *config;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	fragment_key_of(p, &key);
	known.client = p->client;
	known.client_port = p->client_port;
	known.pool = p->pool;
	known.identification = identification;
	known.fate = fate;
	known.hairpin = !!(p->flags & PACKET_HAIRPIN);
	known.clat = p->session_flags & SESSION_CLAT;
	known.outside = !!(p->flags & PACKET_FROM_OUTSIDE);
	before = bpf_map_lookup_elem(&fragments, &key);
	if (before && before->expires > now_seconds())
		known.released = before->released;
	known.expires = expiry(config, TIMER_FRAGMENT, now_seconds());
	return bpf_map_update_elem(&fragments, &key, &known, BPF_ANY) ? STOP_dropped_internal
								      : GO_ON;
}
