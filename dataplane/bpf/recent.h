/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A cache in the binding: the remote end that it was last used for, and a second before which the
 * session with that end needs no update. Until then, a packet there needs no lookup of the session.
 * With many flows, each lookup in these tables misses every CPU cache.
 *
 * It is valid for sessions whose next packet changes nothing but the expiry (is_steady), until the
 * expiry must be written, and only under the same config. A CPU that moves a session out of this
 * state clears it.
 */
#pragma once

#include "bib.h"
#include "flows.h"

/* The stamp has the second before which the note is valid, and in its low bits the config's epoch
 * and SESSION_CLAT. 0: there is no note. BUSY: a CPU is writing one. */
#define EPOCH_BITS 8
#define EPOCH_MASK ((1U << EPOCH_BITS) - 1)
#define BUSY	   1

#define MOST_SPARE 60 /* seconds by which an expiry may be written ahead */

/* The low bits of the stamp for a packet or session with these flags. */
static __always_inline __u32 low_bits(const struct config *config, __u8 session_flags)
{
	_Static_assert(SESSION_CLAT == (EPOCH_MASK + 1) / 2, "the highest of the low bits");
	return (config->epoch & (SESSION_CLAT - 1)) | (session_flags & SESSION_CLAT);
}

/* Whether `p`, from IPv6, goes to the remote end that its binding was last used for, and needs no
 * lookup of its session. */
static __always_inline bool recall_recent(struct packet *p, const struct config *config,
					  const struct bib6 *binding, __u32 now)
{
	__u32 stamp = *(volatile __u32 *)&binding->stamp;
	__u32 left = (stamp - (now << EPOCH_BITS)) >> EPOCH_BITS;

	if (p->flags & PACKET_FROM_OUTSIDE) /* the note doesn't say who may send from there */
		return false;
	if (stamp <= BUSY || left - 1 > MOST_SPARE ||
	    (stamp & EPOCH_MASK) != low_bits(config, p->session_flags) ||
	    binding->recent != p->remote || binding->recent_port != p->remote_port ||
	    tcp_event(p->tcp_flags) != TCP_OTHER)
		return false;
	remember_moves(p, now);
	if (*(volatile __u32 *)&binding->stamp != stamp)
		return false;
	p->session_flags = SESSION_CONFIRMED | (p->session_flags & SESSION_CLAT);
	p->flags |= PACKET_STEADY;
	return true;
}

/* Note the remote end of `p`, whose session is steady. Of two CPUs, the second one to write gives
 * up. */
static __always_inline void note_recent(const struct packet *p, const struct config *config,
					struct bib6 *binding, const struct session *session)
{
	__u32 stamp = p->fresh_until << EPOCH_BITS | low_bits(config, p->session_flags);
	__u32 seen = *(volatile __u32 *)&binding->stamp;

	if (seen == BUSY || __sync_val_compare_and_swap(&binding->stamp, seen, BUSY) != seen)
		return;
	binding->recent = p->remote;
	binding->recent_port = p->remote_port;
	__sync_lock_test_and_set(&binding->stamp, stamp);
	/* a CPU that changes the state writes the state first and clears the note after that */
	if (p->protocol == IPPROTO_TCP && *(volatile __u8 *)&session->life.state != TCP_ESTABLISHED)
		*(volatile __u32 *)&binding->stamp = 0;
}

/* Clear the note: the session of `p` is no longer steady. */
static __noinline void forget_recent(const struct packet *p)
{
	struct bib6_key key;
	struct bib6 *binding;

	bib6_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib6, &key);
	if (binding)
		__sync_lock_test_and_set(&binding->stamp, 0);
}
