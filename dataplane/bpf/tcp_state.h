/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The state table of RFC 6146 section 3.5.2.2. CLOSED is the absence of a session. Additions:
 *
 * - A SYN after a FIN starts a new connection, even if only one side has sent a FIN. Clients reuse
 *   a port well within the time for which the RFC keeps the old session, whose state would cut off
 *   the new connection. A SYN from IPv4 may be forged or late, so it keeps the way back to
 *   ESTABLISHED open. A SYN with ACK starts nothing.
 * - An RST after a FIN leads to TRANS, and a FIN after an RST doesn't lead out of it: the session
 *   ends after the transitory time, whichever came first (RFC 7857 section 2.2).
 * - SHUT: both ends have finished with the session, so its port may be given back early
 *   (give_back.h).
 */
#pragma once

#include "context.h"

enum tcp_state {
	TCP_CLOSED,
	TCP_V4_INIT,
	TCP_V6_INIT,
	TCP_ESTABLISHED,
	TCP_V4_FIN,
	TCP_V6_FIN,
	TCP_BOTH_FIN,
	TCP_TRANS,
	TCP_STATES,
};

enum tcp_event { TCP_OTHER, TCP_SYN, TCP_SYN_ACK, TCP_FIN, TCP_RST, TCP_EVENTS };

#define TCP_FLAG_FIN_BIT 0x01
#define TCP_FLAG_SYN_BIT 0x02
#define TCP_FLAG_RST_BIT 0x04
#define TCP_FLAG_ACK_BIT 0x10

static __always_inline enum tcp_event tcp_event(__u8 flags)
{
	if (flags & TCP_FLAG_RST_BIT)
		return TCP_RST;
	if (flags & TCP_FLAG_FIN_BIT)
		return TCP_FIN;
	if (!(flags & TCP_FLAG_SYN_BIT))
		return TCP_OTHER;
	return flags & TCP_FLAG_ACK_BIT ? TCP_SYN_ACK : TCP_SYN;
}

static __always_inline bool has_syn(__u8 flags)
{
	enum tcp_event event = tcp_event(flags);

	return event == TCP_SYN || event == TCP_SYN_ACK;
}

/* An entry is the next state. HOLD: the session's expiry doesn't change. */
#define HOLD	 0x80
#define TCP_SHUT 0x40

#define V4_INIT	    TCP_V4_INIT
#define V6_INIT	    TCP_V6_INIT
#define ESTABLISHED TCP_ESTABLISHED
#define V4_FIN	    TCP_V4_FIN
#define V6_FIN	    TCP_V6_FIN
#define BOTH_FIN    (TCP_BOTH_FIN | TCP_SHUT)
#define TRANS	    (TCP_TRANS | TCP_SHUT)
#define REFUSED	    (TCP_SHUT | HOLD)

/* clang-format off */
TABLE __u8 tcp_transitions[TCP_STATES][DIR_COUNT][TCP_EVENTS] = {
	/* from IPv6, then from IPv4:
	 * other            SYN           SYN-ACK          FIN              RST */
	[TCP_V4_INIT] = {
		{V4_INIT | HOLD,  ESTABLISHED,    ESTABLISHED,     V4_INIT | HOLD,  V4_INIT | REFUSED},
		{V4_INIT | HOLD,  V4_INIT | HOLD, V4_INIT | HOLD,  V4_INIT | HOLD,  V4_INIT | REFUSED}},
	[TCP_V6_INIT] = {
		{V6_INIT | HOLD,  V6_INIT,        V6_INIT,         V6_INIT | HOLD,  V6_INIT | REFUSED},
		{V6_INIT | HOLD,  ESTABLISHED,    ESTABLISHED,     V6_INIT | HOLD,  V6_INIT | REFUSED}},
	[TCP_ESTABLISHED] = {
		{ESTABLISHED,     ESTABLISHED,    ESTABLISHED,     V6_FIN,          TRANS},
		{ESTABLISHED,     ESTABLISHED,    ESTABLISHED,     V4_FIN,          TRANS}},
	[TCP_V4_FIN] = {
		{V4_FIN,          V6_INIT,        V4_FIN,          BOTH_FIN,        TRANS},
		{V4_FIN,          TCP_TRANS,      V4_FIN,          V4_FIN,          TRANS}},
	[TCP_V6_FIN] = {
		{V6_FIN,          V6_INIT,        V6_FIN,          V6_FIN,          TRANS},
		{V6_FIN,          TCP_TRANS,      V6_FIN,          BOTH_FIN,        TRANS}},
	[TCP_BOTH_FIN] = {
		{BOTH_FIN | HOLD, V6_INIT,        BOTH_FIN | HOLD, BOTH_FIN | HOLD, BOTH_FIN | HOLD},
		{BOTH_FIN | HOLD, V4_INIT,        BOTH_FIN | HOLD, BOTH_FIN | HOLD, BOTH_FIN | HOLD}},
	[TCP_TRANS] = {
		{ESTABLISHED,     V6_INIT,        ESTABLISHED,     TRANS | HOLD,    TRANS | HOLD},
		{ESTABLISHED,     TCP_TRANS,      ESTABLISHED,     TRANS | HOLD,    TRANS | HOLD}},
};
/* clang-format on */

#undef V4_INIT
#undef V6_INIT
#undef ESTABLISHED
#undef V4_FIN
#undef V6_FIN
#undef BOTH_FIN
#undef TRANS
#undef REFUSED

TABLE __u8 tcp_timers[TCP_STATES] = {
	[TCP_V4_INIT] = TIMER_TCP_TRANSITORY,	   [TCP_V6_INIT] = TIMER_TCP_TRANSITORY,
	[TCP_ESTABLISHED] = TIMER_TCP_ESTABLISHED, [TCP_V4_FIN] = TIMER_TCP_ESTABLISHED,
	[TCP_V6_FIN] = TIMER_TCP_ESTABLISHED,	   [TCP_BOTH_FIN] = TIMER_TCP_TRANSITORY,
	[TCP_TRANS] = TIMER_TCP_TRANSITORY,
};

static __always_inline __u8 tcp_next(__u8 state, __u8 direction, __u8 flags)
{
	return tcp_transitions[index_below(state, TCP_STATES)][index_below(direction, DIR_COUNT)]
			      [tcp_event(flags)];
}
