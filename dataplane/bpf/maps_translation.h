/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps that translation itself needs, whatever state is around it: counters and work areas. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "counters.h"
#include "work_areas.h"

#define MAP(kind, name, key_type, value_type, entries, map_bits)                                   \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
		__uint(max_entries, entries);                                                      \
		__uint(map_flags, map_bits);                                                       \
	} name SEC(".maps")

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, counters, __u32, struct counters, 1, 0);

/* The state of new_identification(). */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, identifications, __u32, __u64, 1, 0);

/* Work areas, one per CPU. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, scratch, __u32, struct scratch, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, error_work, __u32, struct error_work, 1, 0);
