/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the steps of a packet's path hand to each other, and how each says "stop". */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "counters.h"
#include "maps.h"

/* A step returns GO_ON, or the counter of the reason why the packet goes no further. */
#define GO_ON 0

#define STEP(call)                                                                                 \
	({                                                                                         \
		int stop_ = (call);                                                                \
		if (stop_)                                                                         \
			return stop_;                                                              \
	})

#define inline_step static __always_inline

/* A constant table. Not static: LLVM would move small ones to sections for merging, without telling
 * BTF, and the kernel would refuse the BTF. */
#define TABLE const

/* IPv4's fragment field: offset in units of 8 bytes, and the flag bits. */
#define IPV4_DF		 0x4000
#define IPV4_MF		 0x2000
#define IPV4_OFFSET_MASK 0x1fff

#define MAX_HEADER_OFFSET 2048
#define LOOPBACK_IFINDEX  1

#ifndef barrier_var
#define barrier_var(var) asm volatile("" : "+r"(var))
#endif

/* Whether `length` is 1 to `most`, in the verifier's eyes too: before 6.8 it learns nothing from a
 * comparison with 0, and refuses to hand a helper what may be empty. */
static __always_inline bool within(__u32 *length, __u32 most)
{
	__u32 less = *length - 1;

	barrier_var(less);
	if (less >= most)
		return false;
	*length = less + 1;
	return true;
}

#define AF_INET	 2
#define AF_INET6 10

enum packet_flag {
	PACKET_FRAGMENT = 1 << 0,      /* has a Fragment header, or IPv4 MF or offset */
	PACKET_DF = 1 << 1,	       /* IPv4, don't fragment */
	PACKET_ZERO_CHECKSUM = 1 << 4, /* UDP over IPv4 without one */
	PACKET_SLOW = 1 << 5,	       /* must go through the kernel's forwarding */
	PACKET_HAIRPIN = 1 << 6,
	PACKET_FORWARDED = 1 << 7, /* the kernel has taken one off its TTL already */
	PACKET_STEADY = 1 << 8,	   /* the next packet of its flow will find the same */
	PACKET_RECALLED = 1 << 9,  /* its session is as an earlier one has noted */
	PACKET_NOTABLE = 1 << 10,  /* what is found for it can be noted */
	PACKET_ROUTED = 1 << 11,   /* so may be its route */
};

/* The same names in both directions. `client` is the IPv6 host, `remote` the IPv4 one (remote6:
 * as the client sees it), `pool` our IPv4 address that stands for the client. */
struct packet {
	union addr6 client, remote6; /* keep together: checksummed as one */
	__be32 pool, remote;	     /* likewise */
	__be16 client_port, pool_port, remote_port;
	__u16 flags;

	__u16 l3, l4;	  /* offsets of the IP and of the transport header */
	__u16 length;	  /* of the transport part, as the IP header has it */
	__u16 extensions; /* bytes of IPv6 extension headers or IPv4 options */
	__u16 fragment;	  /* as IPv4's field: offset and MF */
	__u8 protocol;	  /* as IPv4 numbers it: 6, 17, 1 */
	__u8 traffic_class;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 icmp_type, icmp_code;
	__u8 session_flags;
	__u8 direction;
	__u8 transport_header; /* bytes; TCP and UDP only */
	__u8 pad;
	__u16 flow;	      /* where its flow is noted */
	__u32 second, moves;  /* when its session was looked at, and what `moves` had */
	__u32 fresh_until;    /* before then, the session's expiry need not be written */
	__u32 identification; /* of the fragmented packet */
	__u32 error_info;     /* for the ICMP error that a refusal sends: a pointer */
	__u32 generation;     /* of the binding that was found or made */
};

/* The longest IP packet that will really be on the wire: a segment, where there is GSO. `ip` is the
 * length of all in front of the transport header. Exactly: a byte too many would send every full
 * segment by way of the kernel. */
static __always_inline __u32 wire_length(struct __sk_buff *skb, const struct packet *p, __u32 ip)
{
	if (!skb->gso_size || !p->transport_header)
		return ip + p->length;
	return ip + p->transport_header + skb->gso_size;
}

static __always_inline struct config *active_config(__u32 *slot)
{
	__u32 zero = 0;
	struct control *state = bpf_map_lookup_elem(&control, &zero);

	if (!state)
		return NULL;
	*slot = state->active & (CONFIG_SLOTS - 1);
	return bpf_map_lookup_elem(&config, slot);
}

/* Seconds on a clock that tests can move. */
static __always_inline __u32 now_seconds(void)
{
	__u32 zero = 0;
	struct control *state = bpf_map_lookup_elem(&control, &zero);

	return (bpf_ktime_get_coarse_ns() + (state ? state->clock_offset : 0)) / 1000000000ULL;
}

static __always_inline __u32 route_changes(void)
{
	__u32 zero = 0;
	struct control *state = bpf_map_lookup_elem(&control, &zero);

	return state ? state->routes : 0;
}

static __always_inline bool addr6_equal(const union addr6 *a, const union addr6 *b)
{
	return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

static __always_inline struct counters *counters_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

static __always_inline void count_at(struct counters *here, enum direction direction, __u32 which)
{
	barrier_var(which); /* the compiler knows the bound, and would leave out what proves it */
	if (which < COUNTER_COUNT)
		here->value[direction][which]++;
}

/* For the slow paths, which hold no pointer to the counters. */
static __always_inline void count(__u8 direction, enum counter which)
{
	struct counters *here = counters_here();

	if (here)
		count_at(here, direction == DIR_6TO4 ? DIR_6TO4 : DIR_4TO6, which);
}

/* `length` bytes at `offset`, readable and writable in place, or NULL where the packet ends. */
static __always_inline void *header_at(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	void *data, *end;

	/* For the verifier, which must see the bound on the very register that is added. */
	if (!__builtin_constant_p(offset)) {
		barrier_var(offset);
		if (offset > MAX_HEADER_OFFSET)
			return NULL;
	}
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + offset + length <= end)
		return data + offset;
	if (bpf_skb_pull_data(skb, offset + length))
		return NULL;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	return data + offset + length <= end ? data + offset : NULL;
}
