/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What only the kernel's verifier needs, with the reason for each. A condition that can't be false
 * at run time stands here or says so; everything else in these files is there for packets.
 *
 * Two more rules of kernels before 6.2 have no helper, as they are about how code is written:
 * - The key of a map lookup is on the stack or in a map's value, never inside an argument of a
 *   global function. So a function copies `p->client` before it looks that up (key_of_client).
 * - The verifier follows all paths through an inlined function, and those of a global function
 *   (__noinline, not static) once. Loops over packet bytes are global functions, so that the number
 *   of instructions it looks at stays below its limit. What a global function returns is unknown to
 *   its caller, so a bound is checked again there.
 */
#pragma once

#include <stdbool.h>
#include <linux/types.h>

/* Hides from the compiler where a value comes from. The compiler may otherwise drop a check that
 * it can prove, or check a copy in another register, and the verifier doesn't see the bound. */
#ifndef barrier_var
#define barrier_var(var) asm volatile("" : "+r"(var))
#endif

/* Pointers that a global function gets may be NULL to the verifier, whatever the callers pass. */
#define REQUIRE(pointer, otherwise)                                                                \
	({                                                                                         \
		if (!(pointer))                                                                    \
			return otherwise;                                                          \
	})

/* Whether `var` is more than `most`. The bound is checked on the register that is used next, also
 * where the compiler knows that it can't be more. */
#define exceeds(var, most)                                                                         \
	({                                                                                         \
		barrier_var(var);                                                                  \
		(var) > (most);                                                                    \
	})

#define is_power_of_two(count) ((count) > 0 && ((count) & ((count)-1)) == 0)

/* An index below `count`. The mask costs one instruction and no branch, and the verifier derives
 * the bound from it; it is right only for powers of two. */
#define index_below(index, count)                                                                  \
	({                                                                                         \
		_Static_assert(is_power_of_two(count), #count " must be a power of two");          \
		(index) & ((count)-1);                                                             \
	})

/* Whether `length` is 1 to `most`. Helpers refuse a length that may be 0, and before 6.8 the
 * verifier learns nothing from a comparison with 0; so it sees a bound on length - 1. */
static __always_inline bool within(__u32 *length, __u32 most)
{
	__u32 less = *length - 1;

	if (exceeds(less, most - 1))
		return false;
	*length = less + 1;
	return true;
}
