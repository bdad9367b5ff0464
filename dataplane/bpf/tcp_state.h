/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* RFC 6146 section 3.5.2.2, as the table it is. CLOSED is the absence of a session.
 *
 * One addition: a SYN after both FINs starts over. Clients reuse a port well within the four
 * minutes for which the RFC keeps the old session, and its expiry would cut the new connection.
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

enum tcp_event { TCP_OTHER, TCP_SYN, TCP_FIN, TCP_RST, TCP_EVENTS };

#define TCP_FLAG_FIN_BIT 0x01
#define TCP_FLAG_SYN_BIT 0x02
#define TCP_FLAG_RST_BIT 0x04

static __always_inline enum tcp_event tcp_event(__u8 flags)
{
	if (flags & TCP_FLAG_RST_BIT)
		return TCP_RST;
	if (flags & TCP_FLAG_FIN_BIT)
		return TCP_FIN;
	return flags & TCP_FLAG_SYN_BIT ? TCP_SYN : TCP_OTHER;
}

/* An entry is the next state; HOLD leaves the session's expiry as it was. */
#define HOLD 0x80

TABLE __u8 tcp_transitions[TCP_STATES][DIR_COUNT][TCP_EVENTS] = {
	/*                    from IPv6: other, SYN, FIN, RST | from IPv4: other, SYN, FIN, RST */
	[TCP_V4_INIT] = {{TCP_V4_INIT | HOLD, TCP_ESTABLISHED, TCP_V4_INIT | HOLD,
			  TCP_V4_INIT | HOLD},
			 {TCP_V4_INIT | HOLD, TCP_V4_INIT | HOLD, TCP_V4_INIT | HOLD,
			  TCP_V4_INIT | HOLD}},
	[TCP_V6_INIT] = {{TCP_V6_INIT | HOLD, TCP_V6_INIT, TCP_V6_INIT | HOLD, TCP_V6_INIT | HOLD},
			 {TCP_V6_INIT | HOLD, TCP_ESTABLISHED, TCP_V6_INIT | HOLD,
			  TCP_V6_INIT | HOLD}},
	[TCP_ESTABLISHED] = {{TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_V6_FIN, TCP_TRANS},
			     {TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_V4_FIN, TCP_TRANS}},
	[TCP_V4_FIN] = {{TCP_V4_FIN, TCP_V4_FIN, TCP_BOTH_FIN, TCP_V4_FIN},
			{TCP_V4_FIN, TCP_V4_FIN, TCP_V4_FIN, TCP_V4_FIN}},
	[TCP_V6_FIN] = {{TCP_V6_FIN, TCP_V6_FIN, TCP_V6_FIN, TCP_V6_FIN},
			{TCP_V6_FIN, TCP_V6_FIN, TCP_BOTH_FIN, TCP_V6_FIN}},
	[TCP_BOTH_FIN] = {{TCP_BOTH_FIN | HOLD, TCP_V6_INIT, TCP_BOTH_FIN | HOLD,
			   TCP_BOTH_FIN | HOLD},
			  {TCP_BOTH_FIN | HOLD, TCP_V4_INIT, TCP_BOTH_FIN | HOLD,
			   TCP_BOTH_FIN | HOLD}},
	[TCP_TRANS] = {{TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_TRANS | HOLD},
		       {TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_ESTABLISHED, TCP_TRANS | HOLD}},
};

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
