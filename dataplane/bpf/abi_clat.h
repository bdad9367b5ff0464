/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the agent tells the CLAT's programs, as clat/programs.py has it too. */
#pragma once

#include "abi_types.h"

#define MAX_CLAT_PODS 4096 /* a power of two, for the verifier */

/* One pod. Its index in `clat_pods` is the class id of the filters in its network namespace. */
struct clat_pod {
	union addr6 address; /* of the pod */
	__be32 prefix[3];    /* of the CLAT: a /96 */
	__u32 used;	     /* 0: no pod has this index */
};
