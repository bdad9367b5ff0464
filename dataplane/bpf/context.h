/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every step of the translator may ask for: the active config, the clock, and basics.h. */
#pragma once

#include "basics.h"
#include "maps.h"

static __always_inline struct config *active_config(__u32 *slot)
{
	__u32 zero = 0;
	struct control *state = bpf_map_lookup_elem(&control, &zero);

	if (!state)
		return NULL;
	*slot = index_below(state->active, CONFIG_SLOTS);
	return bpf_map_lookup_elem(&config, slot);
}

/* The config that was active when `p` came in. All steps use it, even if another one becomes active
 * meanwhile. */
static __always_inline struct config *config_of(const struct packet *p)
{
	__u32 slot = index_below(p->slot, CONFIG_SLOTS);

	return bpf_map_lookup_elem(&config, &slot);
}

/* Seconds on a clock that tests can move. */
static __always_inline __u32 now_seconds(void)
{
	__u32 zero = 0;
	struct control *state = bpf_map_lookup_elem(&control, &zero);

	return (bpf_ktime_get_coarse_ns() + (state ? state->clock_offset : 0)) / 1000000000ULL;
}

/* The same as now_seconds(), for notes that this CPU has made. The clock moves with the kernel's
 * ticks, so it is read once in each: reading it costs a packet more than the rest of its note. */
static __always_inline __u32 seconds_by_tick(void)
{
	__u32 zero = 0;
	struct tick *last = bpf_map_lookup_elem(&ticks, &zero);
	struct control *state = bpf_map_lookup_elem(&control, &zero);
	__u64 jiffies = bpf_jiffies64();

	if (!last || !state)
		return now_seconds();
	if (last->jiffies != jiffies || last->clock_offset != state->clock_offset) {
		last->second = now_seconds();
		last->jiffies = jiffies;
		last->clock_offset = state->clock_offset;
	}
	return last->second;
}

static __always_inline __u32 route_changes(void)
{
	__u32 zero = 0;
	struct control *state = bpf_map_lookup_elem(&control, &zero);

	return state ? state->routes : 0;
}
