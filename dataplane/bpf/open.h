/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that have no session: what happens to them, and whether they open one (RFC 6146 section
 * 3.5). */
#pragma once

#include "mss.h"
#include "overload.h"
#include "policy.h"

#define BIB6_TRIES 4 /* another entry may be there that is being removed, or has no binding */

/* Anybody can send to a mapped port, from as many addresses as they can forge. The number of
 * sessions opened from IPv4 is limited, so that clients can always open theirs. */
static __noinline enum verdict stranger_may_open(const struct packet *p,
						 const struct config *config, __u32 now)
{
	struct shared *all = all_shared();

	if (!all || all->inbound_sessions >= config->inbound_sessions)
		return STOP_dropped_inbound_session_limit;
	return client_may_open(p, config->session_rate_per_client, now);
}

/* A TCP segment that can't open a session. It is translated if its answer could come back, which
 * needs a binding that lets strangers in; it makes no session. Otherwise its sender learns that the
 * connection is gone. */
static __noinline enum verdict open_nothing(struct __sk_buff *skb, struct packet *p,
					    const struct config *config)
{
	if (config->flags & CONFIG_ZONES) {
		find_way_out(skb, p);
		p->zone = p->way;
	}
	if (!find_binding(p, 1, 0))
		return STOP_dropped_tcp_without_session;
	STEP(check_policy(skb, p));
	if (config->flags & CONFIG_PORT_DEPENDENT && !(p->flags & PACKET_STATIC))
		return STOP_dropped_tcp_without_session;
	return GO_ON;
}

/* Remove a binding that has just been made. If another CPU has opened a session under it meanwhile,
 * that session is lost. */
static __noinline void unclaim(const struct bib4_key *name, __u32 generation)
{
	struct bib4 *binding = bpf_map_lookup_elem(&bib4, name);
	int i;

	for (i = 0; i < LIFE_TRIES && binding && binding->generation == generation; i++) {
		if (!take_over_binding(binding, 0, true))
			continue;
		close_binding(name, binding);
		return;
	}
}

/* Insert the bib6 entry of the new binding of `p`. If another CPU was first with a packet of this
 * client and port, use its binding instead. */
inline_step enum verdict insert_bib6(struct packet *p, struct claim *claim, __u32 expires)
{
	bool found = false;
	int error = 0;
	int i;

	__builtin_memset(claim, 0, sizeof(*claim));
	bib6_key_of(p, &claim->from_ipv6);
	bib4_key_of(p, &claim->name);
	claim->way.pool = p->pool;
	claim->way.pool_port = p->pool_port;
	claim->generation = p->generation;
	for (i = 0; i < BIB6_TRIES && !found; i++) {
		error = bpf_map_update_elem(&bib6, &claim->from_ipv6, &claim->way, BPF_NOEXIST);
		if (!error) {
			p->pool = claim->name.pool;
			p->pool_port = claim->name.pool_port;
			p->generation = claim->generation;
			return GO_ON;
		}
		if (error != -EEXIST)
			break;
		found = find_binding(p, expires, 1);
	}
	unclaim(&claim->name, claim->generation);
	p->flags &= ~PACKET_NEW_BINDING;
	return found ? GO_ON : refused_insertion(error);
}

/* Find or make the binding (RFC 6146 section 3.5.1). It is endpoint-independent: the remote end has
 * no influence on it. It already counts the session that the caller is about to make. */
__noinline enum verdict get_binding(struct __sk_buff *skb, struct packet *p, __u32 expires,
				    __u32 now)
{
	struct open_work *work = open_work_here();
	struct config *config;
	enum verdict refusal;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config || !work)
		return STOP_dropped_not_configured;
	/* The caller has looked in bib6: without a pool address, `p` has no binding. With several
	 * zones, it has looked only in that of its sessions. */
	if ((p->pool || config->flags & CONFIG_ZONES) && find_binding(p, expires, 1))
		return GO_ON;
	STEP(client_port_taken(p, config));
	refusal = claim_port(skb, p, expires, now);
	if (refusal) {
		client_port_freed(&p->client, p->zone, p->protocol);
		return refusal;
	}
	count(DIR_6TO4, COUNT_bindings_opened);
	return insert_bib6(p, &work->claim, expires);
}

/* Make the binding and the session, or neither. */
inline_step enum verdict bind_and_insert(struct __sk_buff *skb, struct packet *p,
					 const struct config *config, __u32 expires, __u32 now)
{
	struct bib4_key name;
	enum verdict result;

	STEP(get_binding(skb, p, expires, now));
	if (is_clamped(config, p))
		p->segment = longest_segment(skb, p); /* for the session, too */
	result = place_session(p, expires, now);
	if (result) {
		p->segment = 0;
		bib4_key_of(p, &name);
		bib4_leave(&name, p->generation, p->flags & PACKET_NEW_BINDING);
	} else if (keeps_contacts(config, p)) {
		note_contact(p, expires);
	}
	return result;
}

static __always_inline bool may_share(const struct config *config, const struct packet *p,
				      enum verdict refusal)
{
	return (refusal == STOP_dropped_ports_exhausted ||
		refusal == STOP_dropped_client_port_share) &&
	       p->protocol == IPPROTO_TCP && config->flags & CONFIG_OVERLOAD_TCP &&
	       !(p->flags & PACKET_HAIRPIN);
}

/* A packet from the IPv6 side that has no session. */
__noinline enum verdict open_from_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct config *config;
	__u32 now, expires;
	__u8 state = 0;
	enum verdict result = STOP_dropped_internal, sharing;
	int i;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	now = now_seconds();
	if (source6_is_illegal(&p->client))
		return STOP_dropped_source_illegal;
	if (p->protocol == IPPROTO_TCP) {
		if (!has_syn(p->tcp_flags))
			return open_nothing(skb, p, config);
		state = TCP_V6_INIT;
	}
	expires = expiry(config, timer_of(p->protocol, state), now);

	STEP(check_policy(skb, p));
	STEP(check_way_out(skb, config, p));
	p->zone = p->way;
	STEP(client_may_open(p, config->session_rate_per_client, now));
	STEP(client_session_taken(p, config->sessions_per_client));
	p->session_flags = SESSION_CONFIRMED | (p->session_flags & SESSION_CLAT) |
			   (p->flags & PACKET_HAIRPIN ? SESSION_HAIRPIN : 0);
	if (p->flags & PACKET_FROM_OUTSIDE)
		p->session_flags |= SESSION_OUTSIDE;
	for (i = 0; i <= GIVE_BACK_TRIES; i++) {
		result = bind_and_insert(skb, p, config, expires, now);
		if (result != STOP_dropped_ports_exhausted || give_back(p, now))
			break;
	}
	if (may_share(config, p, result)) {
		sharing = open_overloaded(p, expires, now);
		result = sharing == STOP_dropped_ports_exhausted ? result : sharing;
	}
	if (!result)
		return GO_ON;
	client_gives(&p->client, HOLDS_SESSION);
	return result == AGAIN ? GO_ON : result; /* another CPU was first with this session */
}

static __noinline bool knows_contact(const struct packet *p, __u32 now)
{
	struct session_key key;
	struct session *contact;

	session_key_of(p, &key);
	key.remote_port = 0;
	contact = bpf_map_lookup_elem(&sessions, &key);
	return contact && contact->generation == p->generation && contact->life.expires > now;
}

/* Insert the session of a stranger's packet. It doesn't extend the binding, and ends with it. */
inline_step enum verdict insert_inbound(struct packet *p, __u32 expires, __u32 now)
{
	__u32 most = bib4_expires(p);
	struct bib4_key name;
	enum verdict result;

	if (!bib4_extend(p, 0, 1))
		return STOP_passed;
	result = place_session(p, expires < most ? expires : most, now);
	if (result) {
		bib4_key_of(p, &name);
		bib4_leave(&name, p->generation, false);
	}
	return result == AGAIN ? GO_ON : result;
}

/* Under filtering by address and port, only packets of a session come in. All others are the node's
 * own, except those that one of our clients has sent to a mapping of another client. */
static __always_inline enum verdict filtered_by_port(struct __sk_buff *skb, const struct packet *p)
{
	return skb->ifindex == LOOPBACK_IFINDEX && p->protocol != IPPROTO_ICMP &&
			       binding_of_remote(p)
		       ? STOP_dropped_filtered
		       : STOP_passed;
}

/* A packet from the IPv4 side that has no session: its binding decides (RFC 6146 section 3.5). */
__noinline enum verdict open_from_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct config *config;
	struct bib4_key key;
	struct bib4 *binding;
	__u32 now;
	__u8 state = 0;
	bool is_static;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	now = now_seconds();
	bib4_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib4, &key);
	if (!binding || binding->life.expires <= now || !is_way_in(skb, config, binding->zone))
		return STOP_passed;
	is_static = binding->flags & BIB_STATIC;
	if (config->flags & CONFIG_PORT_DEPENDENT && !is_static)
		return filtered_by_port(skb, p);
	p->client = binding->client;
	p->client_port = binding->client_port;
	p->zone = binding->zone;
	p->generation = binding->generation;
	p->session_flags = binding->flags & BIB_CLAT; /* no packet has told which prefix it wants */

	if (source_is_illegal(p->remote))
		return STOP_dropped_source_illegal;
	STEP(check_policy(skb, p));
	if (p->protocol == IPPROTO_TCP) {
		state = TCP_V4_INIT;
		if (!has_syn(p->tcp_flags)) {
			if (keeps_contacts(config, p) && !is_static && !knows_contact(p, now))
				return STOP_dropped_filtered;
			p->flags |=
				PACKET_SLOW; /* through the node's packet filters, like its SYN */
			return GO_ON;
		}
	}
	if (p->flags & PACKET_HAIRPIN)
		p->session_flags |= SESSION_HAIRPIN;
	if (config->flags & CONFIG_ADDRESS_DEPENDENT && !is_static && !knows_contact(p, now)) {
		if (p->protocol == IPPROTO_TCP && !stranger_may_open(p, config, now)) {
			/* kept for a while: the client may be about to open the connection too */
			p->session_flags |= SESSION_PENDING;
			insert_inbound(p, expiry(config, TIMER_TCP_INCOMING_SYN, now), now);
		}
		return STOP_dropped_filtered;
	}
	STEP(stranger_may_open(p, config, now));
	p->flags |= PACKET_SLOW; /* see use_session: the client hasn't answered yet */
	return insert_inbound(p, expiry(config, timer_of(p->protocol, state), now), now);
}
