/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a binding remembers of the remote end that it was last used for: that the session asks for
 * nothing before a certain second, so that a packet there needs no look at it. With many flows each
 * of these tables is a miss of every cache.
 *
 * It holds for sessions whose next packet changes nothing but the expiry (is_steady), until that
 * must be written, and not under another config. Whoever moves a session on from there forgets it.
 */
#pragma once

#include "bib.h"
#include "flows.h"

/* The stamp: before which second the note holds, and the config's epoch in the low bits. 0 is no
 * note, and BUSY one that is being written. */
#define EPOCH_BITS 8
#define EPOCH_MASK ((1U << EPOCH_BITS) - 1)
#define BUSY	   1

#define MOST_SPARE 60 /* seconds that an expiry may be written ahead */

/* Whether `p`, from IPv6, goes where its binding was last used, and its session isn't needed. */
static __always_inline bool recall_recent(struct packet *p, const struct config *config,
					  const struct bib6 *binding, __u32 now)
{
	__u32 stamp = *(volatile __u32 *)&binding->stamp;
	__u32 left = (stamp - (now << EPOCH_BITS)) >> EPOCH_BITS;

	if (p->flags & PACKET_FROM_OUTSIDE) /* the note doesn't tell who may send from there */
		return false;
	if (stamp <= BUSY || left - 1 > MOST_SPARE ||
	    (stamp & EPOCH_MASK) != (config->epoch & EPOCH_MASK) || binding->recent != p->remote ||
	    binding->recent_port != p->remote_port || tcp_event(p->tcp_flags) != TCP_OTHER)
		return false;
	remember_moves(p, now);
	if (*(volatile __u32 *)&binding->stamp != stamp)
		return false;
	p->session_flags = SESSION_CONFIRMED;
	p->flags |= PACKET_STEADY;
	return true;
}

/* Note the remote end of `p`, whose session is steady. Whoever is second to write leaves it. */
static __always_inline void note_recent(const struct packet *p, const struct config *config,
					struct bib6 *binding, const struct session *session)
{
	__u32 stamp = p->fresh_until << EPOCH_BITS | (config->epoch & EPOCH_MASK);
	__u32 seen = *(volatile __u32 *)&binding->stamp;

	if (seen == BUSY || __sync_val_compare_and_swap(&binding->stamp, seen, BUSY) != seen)
		return;
	binding->recent = p->remote;
	binding->recent_port = p->remote_port;
	__sync_lock_test_and_set(&binding->stamp, stamp);
	/* who moves it on writes the state first, and forgets the note then */
	if (p->protocol == IPPROTO_TCP && *(volatile __u8 *)&session->life.state != TCP_ESTABLISHED)
		*(volatile __u32 *)&binding->stamp = 0;
}

/* The session of `p` is no longer steady. */
static __noinline void forget_recent(const struct packet *p)
{
	struct bib6_key key;
	struct bib6 *binding;

	bib6_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib6, &key);
	if (binding)
		__sync_lock_test_and_set(&binding->stamp, 0);
}
