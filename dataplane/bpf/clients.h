/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What each client holds, and how much it may (RFC 6888 sections 3 and 4).
 *
 * An entry is removed only while it holds nothing, and marked so first: who counts something in an
 * entry that is being removed takes it back and begins again with a new one.
 */
#pragma once

#include "context.h"

#define EEXIST 17

#define FAIR_PORTS	   64 /* of each protocol that any client may hold while there are any */
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

/* One less, but not less than none. */
static __always_inline void count_down(__u32 *where)
{
	int i;

	for (i = 0; i < COUNT_TRIES; i++) {
		__u32 seen = *(volatile __u32 *)where;

		if (!seen || __sync_val_compare_and_swap(where, seen, seen - 1) == seen)
			return;
	}
}

static __always_inline struct client *client_of(const union addr6 *which)
{
	union addr6 address = *which; /* a key on the stack: see verifier.h */

	return bpf_map_lookup_elem(&clients, &address);
}

/* Count one more of what `unit` is. What the client held before that, or HOLDS_REMOVED where it
 * can't be counted. */
static __noinline __u64 client_takes(const union addr6 *which, __u64 unit)
{
	union addr6 address = *which;
	int i;

	for (i = 0; i < COUNT_TRIES; i++) {
		struct client *client = bpf_map_lookup_elem(&clients, &address);
		__u64 before;

		if (!client) {
			struct client fresh = {};

			bpf_map_update_elem(&clients, &address, &fresh, BPF_NOEXIST);
			client = bpf_map_lookup_elem(&clients, &address);
			if (!client)
				return HOLDS_REMOVED;
		}
		before = __sync_fetch_and_add(&client->holds, unit);
		if (!(before & HOLDS_REMOVED))
			return before;
		/* its remover deletes it in an instant */
	}
	return HOLDS_REMOVED;
}

static __noinline void client_gives(const union addr6 *which, __u64 unit)
{
	struct client *client = client_of(which);
	int i;

	for (i = 0; client && i < COUNT_TRIES; i++) {
		__u64 seen = *(volatile __u64 *)&client->holds;

		if (unit == HOLDS_PORT ? !PORTS_OF(seen) : !SESSIONS_OF(seen))
			return;
		if (__sync_val_compare_and_swap(&client->holds, seen, seen - unit) == seen)
			return;
	}
}

/* One more session that the client opens, if it may (RFC 6888 REQ-5). */
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

/* Whether a client may have another port of this protocol. Any may have FAIR_PORTS; beyond that, as
 * many as are free: so one that takes all it can get leaves half to the others, two leave a third,
 * and so on, while nobody is limited as long as there is plenty. Those that are at rest count as
 * free: they are given back when they are needed. */
static __always_inline bool is_fair(const struct client *client, const struct config *config,
				    __u32 protocol)
{
	struct shared *all = all_shared();
	__u32 taken, resting, mine;

	if (!all)
		return true;
	protocol = index_below(protocol, 4);
	if (protocol >= PROTOCOL_COUNT)
		return true;
	taken = all->ports_taken[protocol];
	mine = client->ports[protocol];
	if (protocol == INDEX_TCP) {
		resting = all->closed;
		taken = taken > resting ? taken - resting : 0;
		resting = client->closed;
		mine = mine > resting ? mine - resting : 0;
	}
	return mine < FAIR_PORTS || mine + taken < config->pool_ports;
}

/* One more port for the client, if it may (RFC 6888 REQ-4). */
static __noinline enum verdict client_port_taken(const struct packet *p,
						 const struct config *config)
{
	__u32 limit = config->ports_per_client;
	__u64 before = client_takes(&p->client, HOLDS_PORT);
	struct client *client;

	if (before & HOLDS_REMOVED)
		return STOP_dropped_session_table_full;
	if (limit && PORTS_OF(before) >= limit) {
		client_gives(&p->client, HOLDS_PORT);
		return STOP_dropped_client_port_limit;
	}
	client = client_of(&p->client);
	if (client && !is_fair(client, config, protocol_index(p->protocol))) {
		client_gives(&p->client, HOLDS_PORT);
		return STOP_dropped_client_port_share;
	}
	return GO_ON;
}

/* Add to, or take from, what is counted of one protocol: the client's ports and everybody's. */
static __always_inline void count_port(const union addr6 *which, __u8 protocol, bool taken)
{
	struct client *client = client_of(which);
	struct shared *all = all_shared();
	__u32 index = protocol_index(protocol);

	if (exceeds(index, PROTOCOL_COUNT - 1))
		return;
	if (client && taken)
		__sync_fetch_and_add(&client->ports[index], 1);
	else if (client)
		count_down(&client->ports[index]);
	if (all && taken)
		__sync_fetch_and_add(&all->ports_taken[index], 1);
	else if (all)
		count_down(&all->ports_taken[index]);
}

/* Likewise of closed sessions. */
static __always_inline void count_closed(const union addr6 *which, bool closed)
{
	struct client *client = client_of(which);
	struct shared *all = all_shared();

	if (client && closed)
		__sync_fetch_and_add(&client->closed, 1);
	else if (client)
		count_down(&client->closed);
	if (all && closed)
		__sync_fetch_and_add(&all->closed, 1);
	else if (all)
		count_down(&all->closed);
}

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
