/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a sweep does with one entry of each table: it removes the entry, or keeps and counts it. */
#pragma once

#include "held_fragments.h"
#include "session.h"

struct bpf_map;

#define GRACE  2  /* seconds between an entry's expiry and its removal */
#define LINGER 60 /* seconds: longer than a sweep plus LONGEST_PAUSE (sweep_loop.py) after it */

struct sweep_run {
	__u32 now, slot, purge, follow, hold, rest, most;
	__u32 left, removed, inbound;
	__u64 before;
};

/* The time `seconds` ago. The clock starts with the machine, so in its first minutes there is no
 * such time. */
static __always_inline __u32 ago(const struct sweep_run *run, __u32 seconds)
{
	return run->now > seconds ? run->now - seconds : 0;
}

/* One entry of a table is about to be freed. The kernel frees many in one go, so most of them wait
 * for a later run: see removal_pace.py. */
static __always_inline void one_less(struct sweep_run *run)
{
	if (run->most)
		run->most--;
}

static __noinline bool port_is_usable(const struct bib4_key *name, __u32 slot)
{
	return port_is_marked(name->pool, name->pool_port, PORTS_USABLE + slot, 0);
}

/* A binding ends with its last session (RFC 6146 section 3.5.2.2), but packets only ever raise its
 * `expires`: what an established session has asked for would hold the port for hours after it. So
 * each sweep notes what the sessions of a binding need, and packets note what they ask for in
 * between. The next sweep lowers `expires` to that. A session that was about to be inserted
 * meanwhile has no note: LINGER keeps its binding until a sweep has noted that session too, and
 * then `expires` is raised again. After a sweep that was cut short, some bindings have no note, so
 * nothing is lowered. */
static __always_inline void follow_sessions(struct bib4 *binding, __u32 needed, __u32 now)
{
	union binding_life seen = life_of(binding), next = seen;
	__u32 lowest = needed > now + LINGER ? needed : now + LINGER;

	next.expires = lowest;
	if (seen.expires <= lowest) {
		if (seen.expires < needed)
			binding_lives(binding, needed, 0);
		return;
	}
	if (!change_life(binding, seen, next))
		return;
	/* a packet that needed more time may have seen the higher `expires` */
	needed = *(volatile __u32 *)&binding->needed;
	if (needed > lowest)
		binding_lives(binding, needed, 0);
}

static __always_inline void sweep_binding(const struct bib4_key *name, struct bib4 *binding,
					  struct sweep_run *run)
{
	__u32 needed, before;
	bool purged, dead;

	needed = run->rest ? *(volatile __u32 *)&binding->needed
			   : __sync_lock_test_and_set(&binding->needed, 0);
	if (binding->flags & BIB_STATIC) {
		run->left++;
		return;
	}
	purged = run->purge && !port_is_usable(name, run->slot);
	before = ago(run, GRACE + run->hold);
	dead = purged || (needed <= run->now && binding->life.expires <= before);
	if (!dead && run->follow)
		follow_sessions(binding, needed, run->now);
	if (!dead || (!purged && !run->most) || !take_over_binding(binding, before, purged)) {
		run->left++;
		return;
	}
	one_less(run);
	release_binding(name, binding);
	run->removed++;
}

/* Whether the session's binding is gone, or belongs to another client, as after a change of config.
 */
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

static __always_inline void note_need_of(const struct session_key *key,
					 const struct session *session)
{
	struct bib4_key name = {
		.pool = key->pool, .pool_port = key->pool_port, .protocol = key->protocol};
	struct bib4 *binding;

	if (session->flags & SESSION_OVERLOAD || !(session->flags & SESSION_CONFIRMED))
		return;
	binding = bpf_map_lookup_elem(&bib4, &name);
	if (binding && binding->generation == session->generation)
		note_need(binding, session->life.expires);
}

static __always_inline void sweep_session(const struct session_key *key, struct session *session,
					  struct sweep_run *run)
{
	bool lost = (run->purge || !(session->flags & (SESSION_CONFIRMED | SESSION_CONTACT))) &&
		    binding_is_lost(key, session, run->slot);
	bool waits = !run->most && !(run->purge && lost);

	if (waits || !take_over_session(key, session, ago(run, GRACE), lost)) {
		if (!run->rest)
			note_need_of(key, session);
		run->left++;
		if (session->flags & SESSION_INBOUND)
			run->inbound++;
		return;
	}
	if (!(session->flags & SESSION_CONTACT))
		run->removed++;
	one_less(run);
	bpf_map_delete_elem(&sessions, key);
}

/* Remove bib6 entries whose binding is gone: after a claim that was rolled back, or a static
 * mapping that was replaced. */
static __always_inline void sweep_bib6(const struct bib6_key *key, struct bib6 *entry,
				       struct sweep_run *run)
{
	struct bib4_key name = {
		.pool = entry->pool, .pool_port = entry->pool_port, .protocol = key->protocol};
	struct bib4 *binding = bpf_map_lookup_elem(&bib4, &name);

	(void)run;
	if (!binding || binding->client_port != key->client_port || binding->zone != key->zone ||
	    !addr6_equal(&binding->client, &key->client))
		drop_way(key, &name);
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
		drop_lent(key, entry->pool, entry->pool_port);
}

static __always_inline void sweep_client(const union addr6 *address, struct client *client,
					 struct sweep_run *run)
{
	if (run->most && client->second + GRACE <= run->now &&
	    !__sync_val_compare_and_swap(&client->holds, 0, HOLDS_REMOVED)) {
		one_less(run);
		bpf_map_delete_elem(&clients, address);
	}
}

static long sweep_fragment(struct bpf_map *map, const struct fragment_key *key,
			   struct fragment *fragment, struct sweep_run *run)
{
	__u32 zero = 0;
	/* Compared in the map: with a count on the stack, the verifier would follow every round. */
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
