/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Takes away what has expired. The agent runs it every few seconds; packets don't wait for it, as
 * they decide for themselves what is expired.
 *
 * Who turns `expires` into 0 by compare-and-swap owns the entry, and only then deletes it: a packet
 * that revives an entry in the same instant either comes first and saves it, or sees the 0 and
 * keeps away.
 */
#pragma once

#include "fragments.h"
#include "session.h"

struct bpf_map;

#define GRACE  2  /* seconds between dead to packets and taken away */
#define LINGER 60 /* seconds: longer than a sweep and the agent's LONGEST_PAUSE after it */

struct sweep_run {
	__u32 now, slot, purge, hold;
	__u32 left, removed, inbound;
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
 * its binding until it has been noted too, and then this raises `expires` again.
 */
static __always_inline void follow_sessions(struct bib4 *binding, __u32 needed, __u32 now)
{
	__u32 seen = *(volatile __u32 *)&binding->expires;
	__u32 lowest = needed > now + LINGER ? needed : now + LINGER;

	if (seen > lowest)
		__sync_val_compare_and_swap(&binding->expires, seen, lowest);
	else if (seen < needed)
		extend(&binding->expires, needed);
}

static long sweep_binding(struct bpf_map *map, const struct bib4_key *name, struct bib4 *binding,
			  struct sweep_run *run)
{
	struct bib6_key owner = {};
	__u32 needed, before;
	bool purged, dead;

	(void)map;
	needed = binding->needed;
	binding->needed = 0;
	if (binding->flags & BIB_STATIC) {
		run->left++;
		return 0;
	}
	purged = run->purge && !port_is_usable(name, run->slot);
	before = ago(run, GRACE + run->hold);
	dead = purged || (needed <= run->now && binding->expires <= before);
	if (!dead)
		follow_sessions(binding, needed, run->now);
	if (!dead || !take_over(&binding->expires, before, purged)) {
		run->left++;
		return 0;
	}
	owner.client = binding->client;
	owner.client_port = binding->client_port;
	owner.protocol = name->protocol;
	release_binding(name, &owner);
	run->removed++;
	return 0;
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

	if (session->flags & (SESSION_OVERLOAD | SESSION_CONTACT))
		return;
	binding = bpf_map_lookup_elem(&bib4, &name);
	if (binding && binding->generation == session->generation &&
	    binding->needed < session->expires)
		binding->needed = session->expires;
}

static long sweep_session(struct bpf_map *map, const struct session_key *key,
			  struct session *session, struct sweep_run *run)
{
	(void)map;
	if (!take_over(&session->expires, ago(run, GRACE),
		       run->purge && binding_is_lost(key, session, run->slot))) {
		note_need(key, session);
		run->left++;
		if (session->flags & SESSION_INBOUND)
			run->inbound++;
		return 0;
	}
	if (!(session->flags & SESSION_CONTACT))
		run->removed++;
	bpf_map_delete_elem(&sessions, key);
	return 0;
}

/* bib6 entries whose binding went without them: a claim rolled back, a static mapping replaced. */
static long sweep_bib6(struct bpf_map *map, const struct bib6_key *key, struct bib6 *entry,
		       struct sweep_run *run)
{
	struct bib4_key name = {
		.pool = entry->pool, .pool_port = entry->pool_port, .protocol = key->protocol};
	struct bib4 *binding = bpf_map_lookup_elem(&bib4, &name);

	(void)map;
	(void)run;
	if (!binding || binding->client_port != key->client_port ||
	    !addr6_equal(&binding->client, &key->client))
		bpf_map_delete_elem(&bib6, key);
	return 0;
}

static long sweep_overload(struct bpf_map *map, const struct overload_key *key,
			   struct overload *entry, struct sweep_run *run)
{
	struct session_key name = {
		.pool = entry->pool,
		.remote = key->remote,
		.pool_port = entry->pool_port,
		.remote_port = key->remote_port,
		.protocol = IPPROTO_TCP,
	};
	struct session *session = bpf_map_lookup_elem(&sessions, &name);

	(void)map;
	(void)run;
	if (!session || session->client_port != key->client_port ||
	    !addr6_equal(&session->client, &key->client))
		bpf_map_delete_elem(&overloads, key);
	return 0;
}

static long sweep_client(struct bpf_map *map, const union addr6 *address, struct client *client,
			 struct sweep_run *run)
{
	(void)map;
	if (!client->ports && client->second + GRACE <= run->now)
		bpf_map_delete_elem(&clients, address);
	return 0;
}

static long sweep_fragment(struct bpf_map *map, const struct fragment_key *key,
			   struct fragment *fragment, struct sweep_run *run)
{
	(void)map;
	if (fragment->expires > run->now) {
		run->left++;
		return 0;
	}
	bpf_map_delete_elem(&fragments, key);
	run->removed++;
	return 0;
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

static __always_inline void sweep_state(struct sweep_run *run, struct sweep *report,
					struct counters *here, struct shared *all)
{
	run->left = run->removed = 0;
	bpf_for_each_map_elem(&bib4, sweep_binding, run, 0);
	report->bindings = run->left;
	report->removed_bindings = run->removed;
	here->value[DIR_6TO4][COUNT_bindings_closed] += run->removed;
	if (run->purge)
		bpf_for_each_map_elem(&bib6, sweep_bib6, run, 0);

	run->left = run->removed = run->inbound = 0;
	bpf_for_each_map_elem(&sessions, sweep_session, run, 0);
	all->inbound_sessions = run->inbound;
	report->sessions = run->left;
	report->removed_sessions = run->removed;
	here->value[DIR_6TO4][COUNT_sessions_closed] += run->removed;

	bpf_for_each_map_elem(&overloads, sweep_overload, run, 0);
	bpf_for_each_map_elem(&clients, sweep_client, run, 0);
}

static __always_inline void sweep_fragments(struct sweep_run *run, struct sweep *report)
{
	run->left = run->removed = 0;
	bpf_for_each_map_elem(&fragments, sweep_fragment, run, 0);
	report->fragments = run->left;
	report->removed_fragments = run->removed;

	run->left = run->removed = 0;
	bpf_for_each_map_elem(&held, sweep_held, run, 0);
	report->held = run->left;
	report->removed_held = run->removed;
}

static __always_inline enum tc_action sweep_all(void)
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
	run.now = report->now = now_seconds();
	run.purge = report->what & SWEEP_PURGE;
	run.hold = report->hold;
	if (report->what & SWEEP_STATE)
		sweep_state(&run, report, here, all);
	if (report->what & SWEEP_FRAGMENTS)
		sweep_fragments(&run, report);
	return ACTION_DONE;
}
