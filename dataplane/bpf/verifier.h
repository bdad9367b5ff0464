/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Code that only the kernel's verifier needs, with the reason for each. A check that can't fail at
 * run time is in this file or has a comment that says so; all other checks are there for packets.
 *
 * Two more rules of kernels before 6.2 have no helper, because they are about how code is written:
 *
 * - The key of a map lookup is on the stack or in a map's value, never inside an argument of a
 *   global function. So a function copies `p->client` before it looks it up (see client_of).
 * - The verifier follows all paths through an inlined function at each call, and those of a global
 *   function (__noinline, not static) only once. So loops over packet bytes are global functions,
 *   which keeps the number of instructions that it looks at below its limit. The result of a global
 *   function is unknown to its caller, so the caller checks a bound again.
 */
#pragma once

#include <stdbool.h>
#include <linux/types.h>

/* Hides from the compiler where a value comes from. Otherwise the compiler may drop a check that it
 * can prove, or check a copy in another register, and the verifier doesn't see the bound. */
#ifndef barrier_var
#define barrier_var(var) asm volatile("" : "+r"(var))
#endif

/* To the verifier, a pointer argument of a global function may be NULL, whatever the callers pass.
 */
#define REQUIRE(pointer, otherwise)                                                                \
	({                                                                                         \
		if (!(pointer))                                                                    \
			return otherwise;                                                          \
	})

/* Whether `var` is more than `most`. The bound is checked on the register that is used next, even
 * if the compiler knows that `var` can't be more. */
#define exceeds(var, most)                                                                         \
	({                                                                                         \
		barrier_var(var);                                                                  \
		(var) > (most);                                                                    \
	})

/* Has the compiler load the packet's bounds from the context anew. It would keep the end in a
 * register of 32 bits across a branch, and the verifier wouldn't know it again. */
#define reload_bounds() asm volatile("" ::: "memory")

#define is_power_of_two(count) ((count) > 0 && ((count) & ((count)-1)) == 0)

/* An index below `count`. The mask costs one instruction and no branch, and the verifier derives
 * the bound from it; it is right only for powers of two. */
#define index_below(index, count)                                                                  \
	({                                                                                         \
		_Static_assert(is_power_of_two(count), #count " must be a power of two");          \
		(index) & ((count)-1);                                                             \
	})

/* Whether `length` is 1 to `most`. Helpers refuse a length that may be 0, and before 6.8 the
 * verifier learns nothing from a comparison with 0; so the check is on length - 1. */
static __always_inline bool within(__u32 *length, __u32 most)
{
	__u32 less = *length - 1;

	if (exceeds(less, most - 1))
		return false;
	*length = less + 1;
	return true;
}
