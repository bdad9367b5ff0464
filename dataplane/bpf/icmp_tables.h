/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What ICMP errors become: the tables of RFC 7915 sections 4.2 and 5.2. An error that no table
 * names is dropped. */
#pragma once

#include "basics.h"

enum icmp_v4 {
	V4_UNREACHABLE = 3,
	V4_TIME_EXCEEDED = 11,
	V4_PARAMETER_PROBLEM = 12,
};

enum icmp_v6 {
	V6_UNREACHABLE = 1,
	V6_TOO_BIG = 2,
	V6_TIME_EXCEEDED = 3,
	V6_PARAMETER_PROBLEM = 4,
	V6_FIRST_QUERY = 128, /* lower types are errors */
	V6_REDIRECT = 137,
};

/* What happens to the four bytes behind the checksum. */
enum icmp_rest { REST_NONE, REST_MTU, REST_POINTER, REST_FIXED };

#define BECOMES(t, c)                                                                              \
	{                                                                                          \
		.type = (t), .code = (c), .rest = REST_NONE, .known = 1                            \
	}
#define BECOMES_MTU(t, c)                                                                          \
	{                                                                                          \
		.type = (t), .code = (c), .rest = REST_MTU, .known = 1                             \
	}
#define BECOMES_PTR(t, c)                                                                          \
	{                                                                                          \
		.type = (t), .code = (c), .rest = REST_POINTER, .known = 1                         \
	}
#define BECOMES_NEXT(t, c)                                                                         \
	{                                                                                          \
		.type = (t), .code = (c), .rest = REST_FIXED, .known = 1                           \
	}

#define CODES 16

TABLE struct icmp_meaning unreachable_4to6[CODES] = {
	[0] = BECOMES(V6_UNREACHABLE, 0),	     /* network */
	[1] = BECOMES(V6_UNREACHABLE, 0),	     /* host */
	[2] = BECOMES_NEXT(V6_PARAMETER_PROBLEM, 1), /* protocol: points at Next Header */
	[3] = BECOMES(V6_UNREACHABLE, 4),	     /* port */
	[4] = BECOMES_MTU(V6_TOO_BIG, 0),	     /* fragmentation needed */
	[5] = BECOMES(V6_UNREACHABLE, 0),	     /* source route failed */
	[6] = BECOMES(V6_UNREACHABLE, 0),	     /* network unknown */
	[7] = BECOMES(V6_UNREACHABLE, 0),	     /* host unknown */
	[8] = BECOMES(V6_UNREACHABLE, 0),	     /* source host isolated */
	[9] = BECOMES(V6_UNREACHABLE, 1),	     /* network prohibited */
	[10] = BECOMES(V6_UNREACHABLE, 1),	     /* host prohibited */
	[11] = BECOMES(V6_UNREACHABLE, 0),	     /* network for this TOS */
	[12] = BECOMES(V6_UNREACHABLE, 0),	     /* host for this TOS */
	[13] = BECOMES(V6_UNREACHABLE, 1),	     /* communication prohibited */
	[15] = BECOMES(V6_UNREACHABLE, 1),	     /* precedence cutoff */
};

TABLE struct icmp_meaning time_exceeded_4to6[CODES] = {
	[0] = BECOMES(V6_TIME_EXCEEDED, 0),
	[1] = BECOMES(V6_TIME_EXCEEDED, 1),
};

TABLE struct icmp_meaning parameter_problem_4to6[CODES] = {
	[0] = BECOMES_PTR(V6_PARAMETER_PROBLEM, 0), /* pointer indicates the error */
	[2] = BECOMES_PTR(V6_PARAMETER_PROBLEM, 0), /* bad length */
};

TABLE struct icmp_meaning unreachable_6to4[CODES] = {
	[0] = BECOMES(V4_UNREACHABLE, 1),  /* no route */
	[1] = BECOMES(V4_UNREACHABLE, 10), /* prohibited */
	[2] = BECOMES(V4_UNREACHABLE, 1),  /* beyond scope of source */
	[3] = BECOMES(V4_UNREACHABLE, 1),  /* address */
	[4] = BECOMES(V4_UNREACHABLE, 3),  /* port */
};

TABLE struct icmp_meaning too_big_6to4[CODES] = {
	[0] = BECOMES_MTU(V4_UNREACHABLE, 4),
};

TABLE struct icmp_meaning time_exceeded_6to4[CODES] = {
	[0] = BECOMES(V4_TIME_EXCEEDED, 0),
	[1] = BECOMES(V4_TIME_EXCEEDED, 1),
};

TABLE struct icmp_meaning parameter_problem_6to4[CODES] = {
	[0] = BECOMES_PTR(V4_PARAMETER_PROBLEM, 0), /* erroneous header field */
	[1] = BECOMES(V4_UNREACHABLE, 2),	    /* unrecognized Next Header: protocol */
};

/* Where the fields of one header are in the other. NOWHERE: the other header has no such field. */
#define NOWHERE 255

#define POINTERS_V4 32
TABLE __u8 pointer_4to6[POINTERS_V4] = {
	[0] = 0,		 /* version */
	[1] = 1,		 /* TOS: traffic class */
	[2] = 4,	[3] = 4, /* total length: payload length */
	[4] = NOWHERE,	[5] = NOWHERE,	[6] = NOWHERE,	[7] = NOWHERE,
	[8] = 7, /* TTL: hop limit */
	[9] = 6, /* protocol: Next Header */
	[10] = NOWHERE, [11] = NOWHERE, [12] = 8,	[13] = 8,
	[14] = 8,	[15] = 8,				   /* source */
	[16] = 24,	[17] = 24,	[18] = 24,	[19] = 24, /* destination */
	[20] = NOWHERE, [21] = NOWHERE, [22] = NOWHERE, [23] = NOWHERE,
	[24] = NOWHERE, [25] = NOWHERE, [26] = NOWHERE, [27] = NOWHERE,
	[28] = NOWHERE, [29] = NOWHERE, [30] = NOWHERE, [31] = NOWHERE,
};

#define POINTERS_V6 64
TABLE __u8 pointer_6to4[POINTERS_V6] = {
	[0] = 0, /* version */
	[1] = 1, /* traffic class: TOS */
	[2] = NOWHERE,
	[3] = NOWHERE, /* flow label */
	[4] = 2,
	[5] = 2,	  /* payload length: total length */
	[6] = 9,	  /* Next Header: protocol */
	[7] = 8,	  /* hop limit: TTL */
	[8 ... 23] = 12,  /* source */
	[24 ... 39] = 16, /* destination */
	[40 ... 63] = NOWHERE,
};

#define NEXT_HEADER_POINTER 6 /* where ICMPv6 4/1 for an unknown protocol points */

/* RFC 1191 section 7.1: MTUs to assume if a router gives none, largest first. */
#define PLATEAUS 11
TABLE __u16 plateaus[PLATEAUS] = {65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68};

static __always_inline struct icmp_meaning meaning_in(const struct icmp_meaning *table, __u8 code)
{
	struct icmp_meaning none = {};

	return code < CODES ? table[index_below(code, CODES)] : none;
}

static __always_inline struct icmp_meaning meaning_4to6(__u8 type, __u8 code)
{
	struct icmp_meaning none = {};

	switch (type) {
	case V4_UNREACHABLE:
		return meaning_in(unreachable_4to6, code);
	case V4_TIME_EXCEEDED:
		return meaning_in(time_exceeded_4to6, code);
	case V4_PARAMETER_PROBLEM:
		return meaning_in(parameter_problem_4to6, code);
	}
	return none;
}

static __always_inline struct icmp_meaning meaning_6to4(__u8 type, __u8 code)
{
	struct icmp_meaning none = {};

	switch (type) {
	case V6_UNREACHABLE:
		return meaning_in(unreachable_6to4, code);
	case V6_TOO_BIG:
		return meaning_in(too_big_6to4, code);
	case V6_TIME_EXCEEDED:
		return meaning_in(time_exceeded_6to4, code);
	case V6_PARAMETER_PROBLEM:
		return meaning_in(parameter_problem_6to4, code);
	}
	return none;
}
