/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each client holds, and how much it may hold (RFC 6888 sections 3 and 4).
 *
 * An entry is removed only while it holds nothing, and it is marked first (HOLDS_REMOVED). A CPU
 * that counts something in a marked entry starts again with a new entry.
 */
#pragma once

#include "context.h"

#define EEXIST 17

#define FAIR_PORTS	   64 /* of each protocol: any client may hold so many while ports are free */
#define FAIR_CLOSED	   256 /* closed sessions that any client may have in their queue */
#define COUNT_TRIES	   4
#define SESSIONS_OF(holds) ((__u32)(holds))
#define PORTS_OF(holds)	   ((__u32)((holds) >> 32))

static __always_inline __u32 protocol_index(__u8 protocol)
{
	if (protocol == IPPROTO_TCP)
		return INDEX_TCP;
	return protocol == IPPROTO_UDP ? INDEX_UDP : INDEX_ICMP;
}

static __always_inline struct open_work *open_work_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&open_work, &zero);
}

static __always_inline struct shared *all_shared(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&shared, &zero);
}

/* Decrement, but not below zero. No try of this can be lost, so the count stays true however many
 * CPUs change it at once. */
static __always_inline void count_down(__u32 *where)
{
	if (!__sync_fetch_and_add(where, -1))
		__sync_fetch_and_add(where, 1);
}

static __always_inline struct client *client_of(const union addr6 *which)
{
	union addr6 address = *which; /* a key on the stack: see verifier.h */

	return bpf_map_lookup_elem(&clients, &address);
}

/* Count one more `unit` (HOLDS_SESSION or HOLDS_PORT). `before` gets what the client held until
 * now. NULL: it can't be counted. */
static __always_inline struct client *count_for_client(const union addr6 *which, __u64 unit,
						       __u64 *before)
{
	union addr6 address = *which;
	int i;

	for (i = 0; i < COUNT_TRIES; i++) {
		struct client *client = bpf_map_lookup_elem(&clients, &address);

		if (!client) {
			struct client fresh = {};

			bpf_map_update_elem(&clients, &address, &fresh, BPF_NOEXIST);
			client = bpf_map_lookup_elem(&clients, &address);
			if (!client)
				return NULL;
		}
		*before = __sync_fetch_and_add(&client->holds, unit);
		if (!(*before & HOLDS_REMOVED))
			return client;
		/* another CPU is about to delete this entry */
	}
	return NULL;
}

/* Likewise. Returns what the client held before, or HOLDS_REMOVED. */
static __noinline __u64 client_takes(const union addr6 *which, __u64 unit)
{
	__u64 before;

	return count_for_client(which, unit, &before) ? before : HOLDS_REMOVED;
}

static __always_inline void client_gave(struct client *client, __u64 unit)
{
	__u64 before = __sync_fetch_and_add(&client->holds, -unit);

	if (unit == HOLDS_PORT ? !PORTS_OF(before) : !SESSIONS_OF(before))
		__sync_fetch_and_add(&client->holds, unit);
}

static __noinline void client_gives(const union addr6 *which, __u64 unit)
{
	struct client *client = client_of(which);

	if (client)
		client_gave(client, unit);
}

/* Count a session that the client opens, if its limit allows another one (RFC 6888 REQ-5). */
static __always_inline enum verdict client_session_taken(const struct packet *p, __u32 limit)
{
	__u64 before = client_takes(&p->client, HOLDS_SESSION);

	if (before & HOLDS_REMOVED)
		return STOP_dropped_session_table_full;
	if (!limit || SESSIONS_OF(before) < limit)
		return GO_ON;
	client_gives(&p->client, HOLDS_SESSION);
	return STOP_dropped_client_session_limit;
}

/* Whether a client may have another port of this protocol. Any client may have FAIR_PORTS; beyond
 * that, it may hold as many as are still free. So one client that takes all it can get leaves half
 * of the ports to the others, two such clients leave a third, and nobody is limited while there are
 * plenty. Ports at rest count as free, because they are given back when another client needs one.
 */
static __always_inline bool is_fair(const struct client *client, const struct config *config,
				    __u32 protocol, __u32 zone)
{
	struct shared *all = all_shared();
	__u32 taken, resting, mine;

	if (!all)
		return true;
	protocol = index_below(protocol, 4);
	if (protocol >= PROTOCOL_COUNT)
		return true;
	zone = index_below(zone, MAX_ZONES);
	taken = all->ports_taken[zone][protocol];
	mine = client->ports[protocol];
	if (protocol == INDEX_TCP) {
		resting = all->closed[zone];
		taken = taken > resting ? taken - resting : 0;
		resting = client->closed;
		mine = mine > resting ? mine - resting : 0;
	}
	return mine < FAIR_PORTS || mine + taken < config->zones[zone].ports;
}

/* Count a port as taken or given back, for the client and for all clients of the zone. */
static __always_inline void count_port(struct client *client, __u8 zone, __u8 protocol, bool taken)
{
	struct shared *all = all_shared();
	__u32 index = protocol_index(protocol);

	if (exceeds(index, PROTOCOL_COUNT - 1))
		return;
	if (client && taken)
		__sync_fetch_and_add(&client->ports[index], 1);
	else if (client)
		count_down(&client->ports[index]);
	if (all && taken)
		__sync_fetch_and_add(&all->ports_taken[index_below(zone, MAX_ZONES)][index], 1);
	else if (all)
		count_down(&all->ports_taken[index_below(zone, MAX_ZONES)][index]);
}

/* Undo client_port_taken. */
static __always_inline void client_port_freed(const union addr6 *which, __u8 zone, __u8 protocol)
{
	struct client *client = client_of(which);

	count_port(client, zone, protocol, false);
	if (client)
		client_gave(client, HOLDS_PORT);
}

/* Count a port that the client takes, if its limit and its share allow another one (RFC 6888
 * REQ-4). The port is counted before it is claimed: another CPU that removes the binding at once
 * must find it counted. */
static __noinline enum verdict client_port_taken(const struct packet *p,
						 const struct config *config)
{
	__u32 limit = config->ports_per_client;
	__u64 before;
	struct client *client = count_for_client(&p->client, HOLDS_PORT, &before);

	if (!client)
		return STOP_dropped_session_table_full;
	if (limit && PORTS_OF(before) >= limit) {
		client_gave(client, HOLDS_PORT);
		return STOP_dropped_client_port_limit;
	}
	if (!is_fair(client, config, protocol_index(p->protocol), p->zone)) {
		client_gave(client, HOLDS_PORT);
		return STOP_dropped_client_port_share;
	}
	count_port(client, p->zone, p->protocol, true);
	return GO_ON;
}

/* Whether a session that has closed may have a place in the queue of these, with the same rule of
 * fairness: those of one client have at most half of its places. */
static __always_inline bool may_wait_in_queue(const struct client *client, __u32 places)
{
	struct shared *all = all_shared();
	__u32 waiting = 0;
	int i;

	if (!client || !all)
		return false;
	if (client->closed <= FAIR_CLOSED)
		return true; /* without looking at all zones */
	for (i = 0; i < MAX_ZONES; i++)
		waiting += all->closed[i];
	return client->closed + waiting <= places;
}

/* Likewise, count a session as closed or no longer closed. */
static __always_inline void count_closed(struct client *client, __u8 zone, bool closed)
{
	struct shared *all = all_shared();

	if (client && closed)
		__sync_fetch_and_add(&client->closed, 1);
	else if (client)
		count_down(&client->closed);
	if (all && closed)
		__sync_fetch_and_add(&all->closed[index_below(zone, MAX_ZONES)], 1);
	else if (all)
		count_down(&all->closed[index_below(zone, MAX_ZONES)]);
}

/* Limit new sessions per second (RFC 6888 REQ-8): a token bucket that is full again each second.
 * Each side has its own bucket, so that strangers don't use up the client's tokens. */
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
