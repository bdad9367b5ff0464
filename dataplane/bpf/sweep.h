/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Takes away what has expired. The agent runs it every few seconds; packets don't wait for it, as
 * they decide for themselves what is expired.
 *
 * No packet is received on a CPU while it runs a program for the agent. So the agent reads a
 * table's keys, which stops nobody, and has this program visit them by chunks of SWEEP_CHUNK. A key
 * that is gone meanwhile, or that another process has put there, does no harm.
 *
 * Who turns `expires` into 0 by compare-and-swap owns the entry, and only then deletes it: a packet
 * that revives an entry in the same instant either comes first and saves it, or sees the 0 and
 * keeps away.
 */
#pragma once

#include "fragments.h"
#include "session.h"

#define GRACE  2  /* seconds between dead to packets and taken away */
#define LINGER 60 /* seconds: longer than a sweep and the agent's LONGEST_PAUSE after it */

struct bpf_map;

#define SWEEP_MOST                                                                                 \
	256 /* entries that a run removes at most from a table that it looks through whole */

struct sweep_run {
	__u32 now, slot, purge, follow, hold;
	__u32 left, removed, inbound;
	__u64 before;
};

/* The clock begins with the machine: for its first minutes there is no such time. */
static __always_inline __u32 ago(const struct sweep_run *run, __u32 seconds)
{
	return run->now > seconds ? run->now - seconds : 0;
}

static __noinline bool port_is_usable(const struct bib4_key *name, __u32 slot)
{
	struct port_block_key key = {.address = name->pool, .kind = PORTS_USABLE + slot};
	__u32 port = bpf_ntohs(name->pool_port);
	struct port_block *usable;

	key.block = port / PORTS_PER_BLOCK;
	usable = bpf_map_lookup_elem(&ports, &key);
	return usable && usable->bits[index_below(port / 64, PORT_WORDS)] & 1ULL << (port & 63);
}

/* A binding goes with its last session (RFC 6146 section 3.5.2.2), yet packets only ever raise its
 * `expires`: what an established session once asked for would hold the port for hours after it. So
 * each sweep notes what the sessions of a binding need, and the next one lowers `expires` to that.
 * A session opened in between may have found `expires` high enough and not raised it: LINGER keeps
 * its binding until it has been noted too, and then this raises `expires` again. After a sweep that
 * was cut short, some bindings have no note: then nothing is lowered.
 */
static __always_inline void follow_sessions(struct bib4 *binding, __u32 needed, __u32 now)
{
	union binding_life seen = life_of(binding), next = seen;
	__u32 lowest = needed > now + LINGER ? needed : now + LINGER;

	next.expires = lowest;
	if (seen.expires > lowest)
		change_life(binding, seen, next);
	else if (seen.expires < needed)
		binding_lives(binding, needed, 0);
}

static __always_inline void sweep_binding(const struct bib4_key *name, struct bib4 *binding,
					  struct sweep_run *run)
{
	struct bib6_key owner = {};
	__u32 needed, before;
	bool purged, dead;

	needed = binding->needed;
	binding->needed = 0;
	if (binding->flags & BIB_STATIC) {
		run->left++;
		return;
	}
	purged = run->purge && !port_is_usable(name, run->slot);
	before = ago(run, GRACE + run->hold);
	dead = purged || (needed <= run->now && binding->life.expires <= before);
	if (!dead && run->follow)
		follow_sessions(binding, needed, run->now);
	if (!dead || !take_over_binding(binding, before, purged)) {
		run->left++;
		return;
	}
	owner.client = binding->client;
	owner.client_port = binding->client_port;
	owner.protocol = name->protocol;
	release_binding(name, &owner);
	run->removed++;
}

/* After a change of config: has the session's binding been purged, or given to another? */
static __noinline bool binding_is_lost(const struct session_key *key, const struct session *session,
				       __u32 slot)
{
	struct bib4_key name = {
		.pool = key->pool, .pool_port = key->pool_port, .protocol = key->protocol};
	struct bib4 *binding;

	if (session->flags & SESSION_OVERLOAD)
		return !port_is_usable(&name, slot);
	binding = bpf_map_lookup_elem(&bib4, &name);
	return !binding || binding->generation != session->generation;
}

static __always_inline void note_need(const struct session_key *key, const struct session *session)
{
	struct bib4_key name = {
		.pool = key->pool, .pool_port = key->pool_port, .protocol = key->protocol};
	struct bib4 *binding;

	if (session->flags & SESSION_OVERLOAD || !(session->flags & SESSION_CONFIRMED))
		return;
	binding = bpf_map_lookup_elem(&bib4, &name);
	if (binding && binding->generation == session->generation &&
	    binding->needed < session->life.expires)
		binding->needed = session->life.expires;
}

static __always_inline void sweep_session(const struct session_key *key, struct session *session,
					  struct sweep_run *run)
{
	bool lost = (run->purge || !(session->flags & (SESSION_CONFIRMED | SESSION_CONTACT))) &&
		    binding_is_lost(key, session, run->slot);

	if (!take_over_session(key, session, ago(run, GRACE), lost)) {
		note_need(key, session);
		run->left++;
		if (session->flags & SESSION_INBOUND)
			run->inbound++;
		return;
	}
	if (!(session->flags & SESSION_CONTACT))
		run->removed++;
	bpf_map_delete_elem(&sessions, key);
}

/* bib6 entries whose binding went without them: a claim rolled back, a static mapping replaced. */
static __always_inline void sweep_bib6(const struct bib6_key *key, struct bib6 *entry,
				       struct sweep_run *run)
{
	struct bib4_key name = {
		.pool = entry->pool, .pool_port = entry->pool_port, .protocol = key->protocol};
	struct bib4 *binding = bpf_map_lookup_elem(&bib4, &name);

	(void)run;
	if (!binding || binding->client_port != key->client_port ||
	    !addr6_equal(&binding->client, &key->client))
		bpf_map_delete_elem(&bib6, key);
}

static __always_inline void sweep_overload(const struct overload_key *key, struct overload *entry,
					   struct sweep_run *run)
{
	struct session_key name = {
		.pool = entry->pool,
		.remote = key->remote,
		.pool_port = entry->pool_port,
		.remote_port = key->remote_port,
		.protocol = IPPROTO_TCP,
	};
	struct session *session = bpf_map_lookup_elem(&sessions, &name);

	(void)run;
	if (!session || session->client_port != key->client_port ||
	    !addr6_equal(&session->client, &key->client))
		bpf_map_delete_elem(&overloads, key);
}

static __always_inline void sweep_client(const union addr6 *address, struct client *client,
					 struct sweep_run *run)
{
	if (client->second + GRACE <= run->now &&
	    !__sync_val_compare_and_swap(&client->holds, 0, HOLDS_REMOVED))
		bpf_map_delete_elem(&clients, address);
}

static long sweep_fragment(struct bpf_map *map, const struct fragment_key *key,
			   struct fragment *fragment, struct sweep_run *run)
{
	__u32 zero = 0;
	/* Compared here, a count on the stack would have the verifier follow every round. */
	struct sweep *report = bpf_map_lookup_elem(&sweep, &zero);

	(void)map;
	if (!report)
		return 1;
	if (fragment->expires > run->now) {
		run->left++;
		return 0;
	}
	bpf_map_delete_elem(&fragments, key);
	report->removed_fragments++;
	return report->removed_fragments - run->before >= SWEEP_MOST;
}

static long sweep_held(struct bpf_map *map, const struct held_key *key, struct held *waiting,
		       struct sweep_run *run)
{
	__u8 direction = waiting->direction;
	struct held_key name = *key;

	(void)map;
	if (name.part)
		return 0;
	if (!take_over(&waiting->expires, run->now, false)) {
		run->left++;
		return 0;
	}
	drop_held(&name);
	run->removed++;
	count(direction, COUNT_received);
	count(direction, COUNT_dropped_fragment_expired);
	return 0;
}

/* Visits the entries of a chunk's keys. Each is copied first: another process may write there. */
#define SWEEP_CHUNKS_OF(table, key_type, visit)                                                    \
	_Static_assert(sizeof(key_type) <= SWEEP_KEY_BYTES, #table " has longer keys");            \
	static long visit##_at(__u32 index, struct sweep_run *run)                                 \
	{                                                                                          \
		__u32 zero = 0;                                                                    \
		struct sweep_keys *keys = bpf_map_lookup_elem(&sweep_keys, &zero);                 \
		typeof(table.value) value;                                                         \
		key_type key;                                                                      \
                                                                                                   \
		if (!keys || index >= SWEEP_CHUNK)                                                 \
			return 1;                                                                  \
		key = ((key_type *)keys->bytes)[index];                                            \
		value = bpf_map_lookup_elem(&table, &key);                                         \
		if (value)                                                                         \
			visit(&key, value, run);                                                   \
		return 0;                                                                          \
	}

SWEEP_CHUNKS_OF(bib4, struct bib4_key, sweep_binding)
SWEEP_CHUNKS_OF(sessions, struct session_key, sweep_session)
SWEEP_CHUNKS_OF(bib6, struct bib6_key, sweep_bib6)
SWEEP_CHUNKS_OF(overloads, struct overload_key, sweep_overload)
SWEEP_CHUNKS_OF(clients, union addr6, sweep_client)

static __always_inline void sweep_table(struct sweep_run *run, struct sweep *report,
					struct counters *here, struct shared *all)
{
	__u32 keys = report->keys;

	switch (report->table) {
	case SWEEP_BINDINGS:
		bpf_loop(keys, sweep_binding_at, run, 0);
		report->bindings += run->left;
		report->removed_bindings += run->removed;
		here->value[DIR_6TO4][COUNT_bindings_closed] += run->removed;
		break;
	case SWEEP_SESSIONS:
		bpf_loop(keys, sweep_session_at, run, 0);
		report->inbound += run->inbound;
		report->sessions += run->left;
		report->removed_sessions += run->removed;
		here->value[DIR_6TO4][COUNT_sessions_closed] += run->removed;
		break;
	case SWEEP_BIB6:
		bpf_loop(keys, sweep_bib6_at, run, 0);
		break;
	case SWEEP_OVERLOADS:
		bpf_loop(keys, sweep_overload_at, run, 0);
		break;
	case SWEEP_CLIENTS:
		bpf_loop(keys, sweep_client_at, run, 0);
		break;
	case SWEEP_FRAGMENTS:
		run->before = report->removed_fragments;
		bpf_for_each_map_elem(&fragments, sweep_fragment, run, 0);
		report->fragments = run->left;
		break;
	case SWEEP_HELD:
		bpf_for_each_map_elem(&held, sweep_held, run, 0);
		report->held = run->left;
		report->removed_held += run->removed;
		break;
	default:
		all->inbound_sessions = report->inbound;
	}
}

static __always_inline enum tc_action sweep_once(void)
{
	struct sweep_run run = {};
	struct config *config;
	struct sweep *report;
	struct counters *here;
	struct shared *all;
	__u32 zero = 0;

	all = bpf_map_lookup_elem(&shared, &zero);
	report = bpf_map_lookup_elem(&sweep, &zero);
	here = counters_here();
	config = active_config(&run.slot);
	if (!all || !report || !here || !config)
		return ACTION_DROP;
	run.now = now_seconds();
	run.purge = report->how & SWEEP_PURGE;
	run.follow = report->how & SWEEP_FOLLOW;
	run.hold = report->hold;
	sweep_table(&run, report, here, all);
	return ACTION_DONE;
}
