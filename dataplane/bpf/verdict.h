/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a step of the packet path says what comes next, and what a program tells the kernel.
 *
 * There are three enums, so that the compiler keeps them apart (-Wenum-conversion is an error
 * here): the verdict of a step, a counter, and an action of tc. Only stop_counter() converts one to
 * another.
 */
#pragma once

#include <linux/pkt_cls.h>

#include "counters.h"

/* What a step of the path returns. A STOP_ ends the packet's path; it is also the reason that is
 * counted. */
#define STOP_NAME(name) STOP_##name = COUNT_##name,
enum verdict {
	GO_ON = COUNT_none,
	AGAIN = COUNTER_COUNT, /* nothing is decided: call the step once more */
	STOP_COUNTERS(STOP_NAME) TOPOLOGY_STOP_COUNTERS(STOP_NAME)
};
#undef STOP_NAME

_Static_assert(GO_ON == 0, "STEP and ?: rely on GO_ON being 0");

/* What a program returns to the kernel. */
enum tc_action {
	ACTION_PASS = TC_ACT_UNSPEC, /* to the next program, or the stack */
	ACTION_DONE = TC_ACT_OK,     /* of nat64_sweep: it has run */
	ACTION_DROP = TC_ACT_SHOT,
	ACTION_REDIRECT = TC_ACT_REDIRECT, /* what bpf_redirect and its like return */
};

/* Make `call`, and return its verdict from the calling step unless that is GO_ON. */
#define STEP(call)                                                                                 \
	({                                                                                         \
		enum verdict stop_ = (call);                                                       \
		if (stop_)                                                                         \
			return stop_;                                                              \
	})

#define inline_step static __always_inline

static __always_inline enum counter stop_counter(enum verdict stop)
{
	return (enum counter)stop;
}
