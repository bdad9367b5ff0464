/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the agent and nat64_sweep tell each other. See abi.h. */
#pragma once

#include "abi_state.h"

/* What one run of nat64_sweep visits: a chunk of one table, or all of a small table. */
enum sweep_table {
	SWEEP_BINDINGS,
	SWEEP_SESSIONS,
	SWEEP_BIB6,
	SWEEP_OVERLOADS,
	SWEEP_CLIENTS,
	SWEEP_FRAGMENTS,
	SWEEP_HELD,
	SWEEP_END, /* no table: all sessions have been counted */
};

enum sweep_how {
	SWEEP_PURGE = 1 << 0,  /* also remove what the active config no longer allows */
	SWEEP_FOLLOW = 1 << 1, /* the sweep before this one has noted what all bindings need */
	SWEEP_REST = 1 << 2,   /* only remove what a sweep has left: nothing is noted or counted */
};

/* While a run lasts, its CPU receives no packets. So it visits few entries, whatever the size of
 * the table: one chunk of keys, or a small table until it has removed SWEEP_MOST entries. The
 * tables that are swept in chunks have keys of at most SWEEP_KEY_BYTES. */
#define SWEEP_CHUNK	256
#define SWEEP_MOST	256
#define SWEEP_KEY_BYTES 24

struct sweep_keys {
	__u8 bytes[SWEEP_CHUNK * SWEEP_KEY_BYTES];
};

/* The input of one run of nat64_adopt in sweep_keys: entries of other maps. `table` is
 * SWEEP_BINDINGS or SWEEP_SESSIONS, and `keys` the number of entries. */
struct adopt_binding {
	struct bib4_key key;
	struct bib4 value;
};

struct adopt_session {
	struct session_key key;
	struct session value;
};

#define ADOPT_BINDINGS (sizeof(struct sweep_keys) / sizeof(struct adopt_binding))
#define ADOPT_SESSIONS (sizeof(struct sweep_keys) / sizeof(struct adopt_session))

/* Input of the runs of one sweep, and their results so far. */
struct sweep {
	__u32 table;   /* in: enum sweep_table */
	__u32 how;     /* in: enum sweep_how */
	__u32 keys;    /* in: how many there are in sweep_keys */
	__u32 hold;    /* in: seconds that a port rests before another client may have it */
	__u32 noted;   /* kept by the agent: the last sweep was completed */
	__u32 inbound; /* out: sessions opened from IPv4 */
	__u32 since;   /* in, of nat64_adopt: insert only what was created from this second on */
	__u32 most;    /* in: how many expired entries may be removed; out: how many still may */
	__u64 sessions, bindings, fragments, held; /* out: entries that are left */
	__u64 removed_sessions, removed_bindings, removed_fragments, removed_held;
};
