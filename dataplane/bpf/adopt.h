/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Takes over bindings and sessions from the maps of another version or size.
 *
 * The agent reads the old maps and gives their entries to this program, which inserts them as if
 * packets had opened them, with everything that is counted. Packets may use the new maps meanwhile:
 * their entries stay, and if both maps have a session, the later state wins. The old maps keep
 * changing until their programs are replaced, so the agent gives every entry twice.
 */
#pragma once

#include "open.h"
#include "session_update.h"

struct adopt_run {
	__u32 now, since;
};

/* How far a session has progressed. An earlier copy must not undo a later one. */
TABLE __u8 tcp_progress[TCP_STATES] = {
	[TCP_V4_INIT] = 1, [TCP_V6_INIT] = 2, [TCP_ESTABLISHED] = 3, [TCP_TRANS] = 4,
	[TCP_V4_FIN] = 5,  [TCP_V6_FIN] = 5,  [TCP_BOTH_FIN] = 6,
};

static __always_inline bool is_later(union session_life one, union session_life other)
{
	__u8 mine = tcp_progress[index_below(one.state, TCP_STATES)];
	__u8 others = tcp_progress[index_below(other.state, TCP_STATES)];

	return mine != others ? mine > others : one.expires > other.expires;
}

static __always_inline void adopt_binding(const struct adopt_binding *old,
					  const struct adopt_run *run)
{
	struct port_block_key block = {.kind = PORTS_TAKEN};
	bool is_static = old->value.flags & BIB_STATIC;
	struct bib4_key name = old->key;
	__u32 port = bpf_ntohs(name.pool_port);
	struct bib4 value = old->value, *known;
	struct bib6_key client = {};
	struct bib6 entry = {};
	struct port_block *taken;

	known = bpf_map_lookup_elem(&bib4, &name);
	if (known) {
		if (known->generation == value.generation)
			binding_lives(known, value.life.expires, 0);
		return;
	}
	if (!value.life.expires || value.created < run->since)
		return;
	client.client = value.client;
	client.client_port = value.client_port;
	client.protocol = name.protocol;
	client.zone = value.zone;
	entry.pool = name.pool;
	entry.pool_port = name.pool_port;
	value.life.sessions = 0;
	value.needed = value.life.expires;
	if (is_static) {
		bpf_map_update_elem(&bib4, &name, &value, BPF_NOEXIST);
		bpf_map_update_elem(&bib6, &client, &entry, BPF_ANY);
		return;
	}
	block.address = name.pool;
	block.protocol = name.protocol;
	block.block = port / PORTS_PER_BLOCK;
	taken = bpf_map_lookup_elem(&ports, &block);
	if (!taken || client_takes(&client.client, HOLDS_PORT) & HOLDS_REMOVED)
		return;
	count_port(client_of(&client.client), value.zone, name.protocol, true);
	port = index_below(port, PORTS_PER_BLOCK);
	if (take_port(taken, port)) {
		if (!bpf_map_update_elem(&bib4, &name, &value, BPF_NOEXIST)) {
			count(DIR_6TO4, COUNT_bindings_opened);
			/* A packet may have given the client another port since. The client has one
			 * mapping, so this binding has no place, and neither have its sessions. */
			if (bpf_map_update_elem(&bib6, &client, &entry, BPF_NOEXIST))
				unclaim(&name, value.generation);
			return;
		}
		free_taken_port(taken, port);
	}
	client_port_freed(&client.client, value.zone, name.protocol);
}

/* Move a session to the state that it has reached under the old programs. */
static __noinline void adopt_state(struct session *known, struct packet *p, __u64 reached,
				   __u32 now)
{
	union session_life seen = session_life_of(known), old = {.word = reached};

	if (!seen.expires || !is_later(old, seen))
		return;
	if (!(p->session_flags & SESSION_OVERLOAD))
		bib4_extend(p, old.expires, 0);
	if (!change_session(known, seen, old))
		return; /* a packet was quicker, and its state is newer */
	if (old.state & ~seen.state & TCP_SHUT)
		session_closes(p, known, ~0U, now);
	else if (seen.state & ~old.state & TCP_SHUT)
		session_reopens(p);
}

/* Count a session that is about to be inserted. False if there is no place for it. */
static __noinline bool adopt_counts(struct packet *p, const struct session *value)
{
	struct bib4_key name;

	if (value->flags & SESSION_OVERLOAD)
		return !is_of_client_limit(value->flags) || value->life.state & TCP_SHUT ||
		       !(client_takes(&p->client, HOLDS_SESSION) & HOLDS_REMOVED);
	if (!bib4_extend(p, value->flags & SESSION_CONFIRMED ? value->life.expires : 0, 1))
		return false;
	if (p->generation != value->generation) {
		bib4_key_of(p, &name); /* the port has been given to another client port */
		bib4_leave(&name, p->generation, false);
		return false;
	}
	if (value->life.state & TCP_SHUT)
		count_closed(client_of(&p->client), p->zone, true);
	else if (is_of_client_limit(value->flags))
		client_takes(&p->client, HOLDS_SESSION);
	return true;
}

static __always_inline void adopt_session(const struct adopt_session *old,
					  const struct adopt_run *run)
{
	struct session_key key = old->key;
	struct session value = old->value, *known;
	struct closed_session closed_one = {};
	struct overload_key flow;
	struct overload lent = {};
	struct packet p = {};

	if (!value.life.expires)
		return;
	p.client = value.client;
	p.client_port = value.client_port;
	p.session_flags = value.flags;
	p.generation = value.generation;
	p.zone = value.zone;
	p.pool = key.pool;
	p.pool_port = key.pool_port;
	p.remote = key.remote;
	p.remote_port = key.remote_port;
	p.protocol = key.protocol;
	known = bpf_map_lookup_elem(&sessions, &key);
	if (known) {
		if (known->generation != value.generation)
			return;
		if (value.flags & SESSION_CONTACT)
			extend(&known->life.expires, value.life.expires);
		else
			adopt_state(known, &p, value.life.word, run->now);
		return;
	}
	if (value.created < run->since && !(value.flags & SESSION_CONTACT))
		return;
	if (value.flags & SESSION_CONTACT) {
		bpf_map_update_elem(&sessions, &key, &value, BPF_NOEXIST);
		return;
	}
	if (!adopt_counts(&p, &value))
		return;
	value.queued = value.life.state & TCP_SHUT && !(value.flags & SESSION_OVERLOAD);
	if (bpf_map_update_elem(&sessions, &key, &value, BPF_NOEXIST)) {
		session_ends(&key, &value, value.life.state, false);
		return;
	}
	count(DIR_6TO4, COUNT_sessions_opened);
	if (value.flags & SESSION_INBOUND)
		count_inbound();
	if (value.flags & SESSION_OVERLOAD) {
		overload_key_of(&p, &flow);
		lent.pool = key.pool;
		lent.pool_port = key.pool_port;
		insert_lent(&flow, &lent);
	}
	if (value.queued) {
		closed_one.key = key;
		closed_one.generation = value.generation;
		closed_one.second = run->now;
		bpf_map_push_elem(&closed, &closed_one, BPF_EXIST);
	}
}

static long adopt_binding_at(__u32 index, struct adopt_run *run)
{
	__u32 zero = 0;
	struct sweep_keys *given = bpf_map_lookup_elem(&sweep_keys, &zero);

	if (!given || index >= ADOPT_BINDINGS)
		return 1;
	adopt_binding(&((struct adopt_binding *)given->bytes)[index], run);
	return 0;
}

static long adopt_session_at(__u32 index, struct adopt_run *run)
{
	__u32 zero = 0;
	struct sweep_keys *given = bpf_map_lookup_elem(&sweep_keys, &zero);

	if (!given || index >= ADOPT_SESSIONS)
		return 1;
	adopt_session(&((struct adopt_session *)given->bytes)[index], run);
	return 0;
}

static __always_inline enum tc_action adopt(void)
{
	struct adopt_run run = {};
	struct sweep *order;
	__u32 zero = 0;

	order = bpf_map_lookup_elem(&sweep, &zero);
	if (!order)
		return ACTION_DROP;
	run.now = now_seconds();
	run.since = order->since;
	if (order->table == SWEEP_BINDINGS)
		bpf_loop(order->keys, adopt_binding_at, &run, 0);
	else
		bpf_loop(order->keys, adopt_session_at, &run, 0);
	return ACTION_DONE;
}
