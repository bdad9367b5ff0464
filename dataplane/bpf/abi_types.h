/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Types that the other abi_*.h share. */
#pragma once

#include <linux/types.h>

union addr6 {
	__u8 bytes[16];
	__be32 words[4];
	__be64 halves[2];
};

enum direction { DIR_6TO4, DIR_4TO6, DIR_COUNT };
