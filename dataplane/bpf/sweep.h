/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Removes what has expired. The agent runs it every few seconds. Packets don't depend on it,
 * because they decide for themselves what has expired.
 *
 * While a CPU runs a program for the agent, it receives no packets. So the agent reads a table's
 * keys, which delays nobody, and has this program visit them in chunks of SWEEP_CHUNK. A key that
 * is gone meanwhile does no harm, nor does one that another process has put there.
 *
 * The CPU that turns `expires` into 0 by compare-and-swap owns the entry, and only then deletes it.
 * A packet that revives an entry in the same instant either comes first and saves it, or sees the 0
 * and doesn't use it.
 */
#pragma once

#include "sweep_entries.h"

/* Visit the entries of a chunk's keys. Each key is copied first, because another process may write
 * there. */
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
		report->bindings += run->rest ? -(__u64)run->removed : run->left;
		report->removed_bindings += run->removed;
		here->value[DIR_6TO4][COUNT_bindings_closed] += run->removed;
		break;
	case SWEEP_SESSIONS:
		bpf_loop(keys, sweep_session_at, run, 0);
		report->inbound += run->rest ? 0 : run->inbound;
		report->sessions += run->rest ? -(__u64)run->removed : run->left;
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
	run.rest = report->how & SWEEP_REST;
	run.hold = report->hold;
	run.most = report->most;
	sweep_table(&run, report, here, all);
	report->most = run.most;
	return ACTION_DONE;
}
