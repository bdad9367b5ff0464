/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps. The loader pins them, and sets the sizes that the config limits.
 *
 * Tables of state are HASH, never LRU: an LRU evicts one half of a pair and resets live flows. They
 * are not preallocated, so that a node uses memory for the sessions it has, not for those it may
 * have.
 */
#pragma once

#include "abi.h"
#include "maps_translation.h"

#define DEFAULT_SESSIONS 65536

MAP(BPF_MAP_TYPE_ARRAY, control, __u32, struct control, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, config, __u32, struct config, CONFIG_SLOTS, 0);
MAP(BPF_MAP_TYPE_ARRAY, pool, __u32, struct pool_range, CONFIG_SLOTS *MAX_POOL_RANGES, 0);
MAP(BPF_MAP_TYPE_HASH, uplinks, __u32, struct uplink, MAX_UPLINKS, BPF_F_NO_PREALLOC);
/* The zone of each address that the node itself uses as a source. Not by config slot: a zone keeps
 * its number for as long as its address is there. */
MAP(BPF_MAP_TYPE_HASH, zones, __be32, __u32, 4 * MAX_ZONES, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, arp_answers, struct arp_key, struct arp_answer, MAX_ARP_ANSWERS,
    BPF_F_NO_PREALLOC);
/* Links that lead to one pod each, by ifindex. The agent follows the node's links, whatever the
 * config. The value is the second until which packets may go straight into the pod (straight.h), or
 * 0. */
MAP(BPF_MAP_TYPE_HASH, pod_links, __u32, __u32, MAX_POD_LINKS, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_LPM_TRIE, sources, struct source_key, __u32, 1024, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_LPM_TRIE, destinations, struct destination_key, struct destination, 65536,
    BPF_F_NO_PREALLOC);

MAP(BPF_MAP_TYPE_HASH, ports, struct port_block_key, struct port_block, MAX_PORT_BLOCKS,
    BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, bib6, struct bib6_key, struct bib6, DEFAULT_SESSIONS, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, bib4, struct bib4_key, struct bib4, DEFAULT_SESSIONS, BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, sessions, struct session_key, struct session, DEFAULT_SESSIONS,
    BPF_F_NO_PREALLOC);
MAP(BPF_MAP_TYPE_HASH, overloads, struct overload_key, struct overload, DEFAULT_SESSIONS / 4,
    BPF_F_NO_PREALLOC);
/* Closed sessions, whose ports may be given back early; the one closed first is in front. When the
 * queue is full the first one is lost: its port is then free when its timer ends. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, DEFAULT_SESSIONS / 4);
	__uint(value_size, sizeof(struct closed_session));
} closed SEC(".maps");

MAP(BPF_MAP_TYPE_HASH, clients, union addr6, struct client, DEFAULT_SESSIONS / 4,
    BPF_F_NO_PREALLOC);

/* Losing an entry loses only the packet that it belongs to, so this table may evict. */
MAP(BPF_MAP_TYPE_LRU_HASH, fragments, struct fragment_key, struct fragment, 8192, 0);
MAP(BPF_MAP_TYPE_HASH, held, struct held_key, struct held, 512, BPF_F_NO_PREALLOC);

/* Counts of all CPUs together. */
struct shared {
	__u32 refragmented;	/* packets given to the kernel to fragment */
	__u32 inbound_sessions; /* opened from IPv4; each sweep counts them anew */
	/* By bindings of each zone; static ones don't count. */
	__u32 ports_taken[MAX_ZONES][PROTOCOL_COUNT];
	__u32 closed[MAX_ZONES];     /* sessions at rest that have a binding */
	__u32 searched;		     /* where the next search for expired bindings starts */
	__u32 held_swept;	     /* second in which expired held fragments were last dropped */
	__u32 lent;		     /* entries of `overloads`, or more */
	__u32 unanswered[MAX_ZONES]; /* TCP connections opened since a reply last came back */
};
MAP(BPF_MAP_TYPE_ARRAY, shared, __u32, struct shared, 1, 0);

MAP(BPF_MAP_TYPE_ARRAY, sweep, __u32, struct sweep, 1, 0);
MAP(BPF_MAP_TYPE_ARRAY, sweep_keys, __u32, struct sweep_keys, 1, 0);

/* The second in which a next hop was found to have no link-layer address; 0: it has one. Next hops
 * with the same hash share an entry. */
#define HOP_SLOTS 64
MAP(BPF_MAP_TYPE_ARRAY, unresolved, __u32, __u32, HOP_SLOTS, 0);

/* Work areas, one per CPU. */
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, holding, __u32, struct held, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, open_work, __u32, struct open_work, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, error_budget, __u32, struct error_budget, 2, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, ticks, __u32, struct tick, 1, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, flows, __u32, struct flow, FLOW_SLOTS, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, ways_back, __u32, struct way_back, WAY_BACK_SLOTS, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, ways_out, __u32, struct way_out, WAY_OUT_SLOTS, 0);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, pod_routes, __u32, struct pod_route, POD_ROUTE_SLOTS, 0);
/* How often sessions have changed their state, on all CPUs. Sessions with the same hash share an
 * entry. */
MAP(BPF_MAP_TYPE_ARRAY, moves, __u32, __u32, MOVES_SLOTS, 0);
