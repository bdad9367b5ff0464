/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The search for a free port, and its claim, which is the insertion into bib4. */
#pragma once

#include "clients.h"

#define CLAIM_TRIES 40 /* blocks of ports looked at, and races lost */
#define SOCKETS_PER_BLOCK                                                                          \
	8 /* ports with sockets found before the search goes to the next block                     \
	   */
#define EVEN_PORTS 0x5555555555555555ULL

/* Map operations return the negative number. Compare it as an int: before Linux 6.3 they return an
 * int, and the verifier calls them without the helper that would extend it to 64 bits. */
#define E2BIG 7

/* Why an insertion failed: the table is full, or the kernel has no memory available. */
static __always_inline enum verdict refused_insertion(int error)
{
	return error == -E2BIG ? STOP_dropped_session_table_full : STOP_dropped_internal;
}

/* The lowest set bit of a word that has one; BPF has no instruction for it. */
static __always_inline __u32 lowest_bit(__u64 word)
{
	__u32 bit = 0;

	/* without branches: each would double the paths that the verifier follows */
#pragma unroll
	for (__u32 step = 6; step--;) {
		__u64 low = word & ((1ULL << (1 << step)) - 1);
		__u32 skip = (low - 1) >> 63 << step; /* low is 0 */

		word >>= skip;
		bit += skip;
	}
	return bit;
}

/* The offset of the first free port at or after bit `start`, wrapping around in the block; or -1.
 * Without `usable`, all ports of the block may be used. */
__noinline int free_port(const struct port_block *usable, const struct port_block *taken,
			 __u32 start, __u64 wanted)
{
	__u32 i;

	REQUIRE(taken, -1);
	for (i = 0; i <= PORT_WORDS; i++) {
		__u32 word = index_below(start / 64 + i, PORT_WORDS);
		__u64 open = ~taken->bits[word] & wanted;

		if (usable)
			open &= usable->bits[word];

		if (i == 0)
			open &= ~0ULL << (start & 63);
		if (open)
			return word * 64 + lowest_bit(open);
	}
	return -1;
}

/* Set a port's bit. False if another CPU was first: the CPU that sets the bit may bind the port. */
static __always_inline bool take_port(struct port_block *taken, __u32 port)
{
	__u64 bit = 1ULL << (port & 63);

	return !(__sync_fetch_and_or(&taken->bits[index_below(port / 64, PORT_WORDS)], bit) & bit);
}

static __always_inline void free_taken_port(struct port_block *taken, __u32 port)
{
	__sync_fetch_and_and(&taken->bits[index_below(port / 64, PORT_WORDS)],
			     ~(1ULL << (port & 63)));
}

/* A hash that spreads clients over pool ranges and is the same for all flows of a client (paired
 * pooling, RFC 4787 REQ-2). */
static __always_inline __u32 client_hash(const union addr6 *client)
{
	__u64 mixed = client->halves[0] * 0x9e3779b97f4a7c15ULL ^ client->halves[1];

	mixed ^= mixed >> 32;
	mixed *= 0xd6e8feb86659fd93ULL;
	return mixed >> 32;
}

/* The pool range that the client of `p` belongs to; NULL if there is none. */
static __always_inline struct pool_range *client_range(const struct packet *p)
{
	struct config *config = config_of(p);
	struct zone *zone;
	__u32 index;

	if (!config)
		return NULL;
	zone = &config->zones[index_below(p->zone, MAX_ZONES)];
	if (!zone->ranges)
		return NULL;
	index = index_below(p->slot, CONFIG_SLOTS) * MAX_POOL_RANGES + zone->first +
		client_hash(&p->client) % zone->ranges;
	return bpf_map_lookup_elem(&pool, &index);
}

/* Whether a port is marked in the bitmap of this kind and protocol. */
static __always_inline bool port_is_marked(__be32 address, __be16 pool_port, __u8 kind,
					   __u8 protocol)
{
	struct port_block_key key = {.address = address, .kind = kind, .protocol = protocol};
	__u32 port = bpf_ntohs(pool_port);
	struct port_block *block;

	key.block = port / PORTS_PER_BLOCK;
	block = bpf_map_lookup_elem(&ports, &key);
	return block && block->bits[index_below(port / 64, PORT_WORDS)] & 1ULL << (port & 63);
}

/* Whether one of the node's own sockets would receive what p's remote end sends to this port: those
 * packets belong to the node. The kernel is asked when a port is claimed. A socket that is opened
 * later doesn't get the packets of exact sessions that exist already; under the default filtering
 * it gets all others. */
static __always_inline bool has_socket(struct __sk_buff *skb, const struct packet *p,
				       struct bpf_sock_tuple *ends, const struct bib4_key *name)
{
	struct bpf_sock *socket;

	ends->ipv4.saddr = p->remote;
	ends->ipv4.sport = p->remote_port;
	ends->ipv4.daddr = name->pool;
	ends->ipv4.dport = name->pool_port;
	if (p->protocol == IPPROTO_TCP)
		socket = bpf_skc_lookup_tcp(skb, ends, sizeof(ends->ipv4), BPF_F_CURRENT_NETNS, 0);
	else if (p->protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(skb, ends, sizeof(ends->ipv4), BPF_F_CURRENT_NETNS, 0);
	else
		return false; /* the kernel has no such lookup for ping sockets */
	if (!socket)
		return false;
	bpf_sk_release(socket);
	return true;
}

/* Go to the next pool range, and to an unpredictable port in it. */
__noinline enum verdict next_range(struct search *search)
{
	struct pool_range *range;
	__u32 index;

	if (!search || search->ranges_tried >= search->ranges)
		return STOP_dropped_ports_exhausted;
	index = search->slot * MAX_POOL_RANGES + search->first_range + search->range_at;
	range = bpf_map_lookup_elem(&pool, &index);
	if (!range)
		return STOP_dropped_ports_exhausted;
	search->ranges_tried++;
	search->range_at = search->range_at + 1 < search->ranges ? search->range_at + 1 : 0;
	search->first = range->first;
	search->last = range->last;
	search->whole = range->whole;
	search->start = range->first + bpf_get_prandom_u32() % (range->last - range->first + 1);
	search->first_block = range->first / PORTS_PER_BLOCK;
	search->blocks = range->last / PORTS_PER_BLOCK - search->first_block + 1;
	search->block = search->start / PORTS_PER_BLOCK;
	search->blocks_tried = 0;
	search->address = range->address;
	return GO_ON;
}

/* Whether every port of the current block is one of the range that clients may have. Then nothing
 * need be looked up to know that: with many addresses, that would miss every CPU cache. */
static __always_inline bool is_whole_block(const struct search *search)
{
	__u32 lowest = search->block * PORTS_PER_BLOCK;

	return search->whole && lowest >= search->first &&
	       lowest + PORTS_PER_BLOCK - 1 <= search->last;
}

static __always_inline void next_block(struct search *search)
{
	search->blocks_tried++;
	search->block++;
	if (search->block >= search->first_block + search->blocks)
		search->block = search->first_block;
}

/* Claim a port of the current block. AGAIN: another CPU was first, or the search has moved on. */
__noinline enum verdict claim_in_block(struct __sk_buff *skb, struct packet *p)
{
	struct open_work *work = open_work_here();
	struct search *search;
	struct port_block_key key = {};
	struct port_block *usable = NULL, *taken;
	struct bib4 *binding;
	struct bib4_key name = {};
	__u64 parity = ~0ULL;
	int offset;
	int error;

	REQUIRE(work, STOP_dropped_internal);
	REQUIRE(p, STOP_dropped_internal);
	search = &work->search;
	if (search->blocks_tried >= search->blocks)
		STEP(next_range(search));
	if (p->protocol == IPPROTO_UDP)
		parity = bpf_ntohs(p->client_port) & 1 ? ~EVEN_PORTS : EVEN_PORTS;
	key.address = name.pool = search->address;
	key.block = search->block;
	if (!is_whole_block(search)) {
		key.kind = PORTS_USABLE + search->slot;
		usable = bpf_map_lookup_elem(&ports, &key);
		if (!usable)
			return STOP_dropped_internal;
	}
	key.kind = PORTS_TAKEN;
	key.protocol = name.protocol = p->protocol;
	taken = bpf_map_lookup_elem(&ports, &key);
	if (!taken)
		return STOP_dropped_internal;
	offset = free_port(usable, taken, index_below(search->start, PORTS_PER_BLOCK), parity);
	if (offset < 0)
		offset = free_port(usable, taken, index_below(search->start, PORTS_PER_BLOCK),
				   ~0ULL);
	if (offset < 0) {
		next_block(search);
		return AGAIN;
	}
	name.pool_port = bpf_htons(search->block * PORTS_PER_BLOCK + offset);
	if (has_socket(skb, p, &search->ends, &name)) {
		search->start = offset + 1;
		if (++search->sockets % SOCKETS_PER_BLOCK == 0)
			next_block(search);
		return AGAIN;
	}
	binding = &work->binding;
	__builtin_memset(binding, 0, sizeof(*binding));
	binding->client = p->client;
	binding->client_port = p->client_port;
	binding->zone = p->zone;
	binding->flags = p->session_flags & SESSION_CLAT;
	binding->generation = bpf_get_prandom_u32();
	binding->life.expires = search->expires;
	binding->life.sessions = 1; /* the session that the caller makes */
	binding->created = search->now;
	binding->needed = search->expires;
	if (!take_port(taken, offset)) {
		count(DIR_6TO4, COUNT_port_claims_lost);
		return AGAIN;
	}
	error = bpf_map_update_elem(&bib4, &name, binding, BPF_NOEXIST);
	if (error) {
		free_taken_port(taken, offset);
		search->start = offset + 1;
		return error == -EEXIST ? AGAIN : refused_insertion(error);
	}
	p->pool = name.pool;
	p->pool_port = name.pool_port;
	p->generation = binding->generation;
	p->flags |= PACKET_NEW_BINDING;
	return GO_ON;
}

/* Claim a free port for p->client: an unpredictable one, and for UDP one of the same parity if
 * possible (RFC 6146 section 3.5.1.1). The client's own pool range comes first; the next ones are
 * used when it is full. */
inline_step enum verdict claim_port(struct __sk_buff *skb, struct packet *p, __u32 expires,
				    __u32 now)
{
	struct open_work *work = open_work_here();
	struct search *search;
	struct config *config;
	enum verdict result;
	struct zone *zone;
	int i;

	REQUIRE(work, STOP_dropped_internal);
	REQUIRE(p, STOP_dropped_internal);
	search = &work->search;
	__builtin_memset(search, 0, sizeof(*search));
	search->expires = expires;
	search->now = now;
	search->slot = p->slot;
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	zone = &config->zones[index_below(p->zone, MAX_ZONES)];
	search->first_range = zone->first;
	search->ranges = zone->ranges;
	if (!search->ranges)
		return STOP_dropped_ports_exhausted;
	search->range_at = client_hash(&p->client) % search->ranges;
	for (i = 0; i < CLAIM_TRIES; i++) {
		result = claim_in_block(skb, p);
		if (result != AGAIN)
			return result;
	}
	return STOP_dropped_ports_exhausted;
}
