/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet as the steps of its path see it. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "abi.h"

/* A constant table. Not static: LLVM would move small ones to mergeable sections without telling
 * BTF, and the kernel would refuse the BTF. */
#define TABLE const

/* IPv4's fragment field: offset in units of 8 bytes, and the flag bits. */
#define IPV4_DF		 0x4000
#define IPV4_MF		 0x2000
#define IPV4_OFFSET_MASK 0x1fff

#define LOOPBACK_IFINDEX 1

#define AF_INET	 2
#define AF_INET6 10

enum packet_flag {
	PACKET_FRAGMENT = 1 << 0,      /* has a Fragment header, or IPv4 MF or offset */
	PACKET_DF = 1 << 1,	       /* IPv4, don't fragment */
	PACKET_ZERO_CHECKSUM = 1 << 2, /* UDP over IPv4 without one */
	PACKET_SLOW = 1 << 3,	       /* must go through the kernel's forwarding */
	PACKET_HAIRPIN = 1 << 4,       /* to or from one of our own mappings */
	PACKET_FORWARDED = 1 << 5,     /* the kernel has taken one off its TTL already */
	PACKET_STEADY = 1 << 6,	       /* the next packet of its flow will find the same */
	PACKET_RECALLED = 1 << 7,      /* an earlier packet has noted its session */
	PACKET_NOTABLE = 1 << 8,       /* what is found for it may be noted */
	PACKET_ROUTED = 1 << 9,	       /* an earlier packet has noted its route */
	PACKET_FROM_OUTSIDE = 1 << 10, /* came in on a link with UPLINK_EXTERNAL */
	PACKET_NEW_BINDING = 1 << 11,  /* the packet has made its binding */
	PACKET_STATIC = 1 << 12,       /* its binding is configured */
	PACKET_REFRAGMENT = 1 << 13,   /* a fragment before it has gone to the fragmenter */
	PACKET_MARKED = 1 << 14,       /* its mark may change its route */
	PACKET_NAMED = 1 << 15,	       /* by allowedDestinations: whatever the node's routes are */
};

/* The names are the same in both directions. `client` is the IPv6 host, `remote` the IPv4 host
 * (remote6: its address as the client sees it), `pool` our IPv4 address that stands for the client.
 */
struct packet {
	union addr6 client, remote6; /* keep them together: they are summed as one */
	__be32 pool, remote;	     /* likewise */
	__be16 client_port, pool_port, remote_port;
	__u16 flags;

	__u16 l3, l4;	  /* offsets of the IP and of the transport header */
	__u16 length;	  /* of the transport part, from the IP header */
	__u16 extensions; /* bytes of IPv6 extension headers or IPv4 options */
	__u16 fragment;	  /* offset and MF, as in the IPv4 field */
	__u8 protocol;	  /* the IPv4 number: 6, 17, 1 */
	__u8 traffic_class;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 icmp_type, icmp_code;
	__u8 session_flags; /* from IPv6, SESSION_CLAT always tells how this packet came */
	__u8 direction;
	__u8 transport_header; /* bytes; TCP and UDP only */
	__u8 slot;	       /* of the config that this packet uses */
	__u8 zone;	       /* of its binding */
	__u8 way;	       /* the zone of the route that the kernel has found */
	__u16 flow;	       /* slot of its flow in `flows` */
	__u16 segment;	       /* the MSS that both its routes can carry; 0: not known */
	__u16 mtu6;	       /* of the route to the client; 0: not known */
	__u32 second, moves;   /* when its session was looked up, and what `moves` had then */
	__u32 fresh_until;     /* before then, the session's expiry need not be written */
	__u32 identification;  /* of the fragmented packet */
	__u32 error_info;      /* the pointer of the ICMP error that a refusal sends */
	__u32 generation;      /* of the binding that was found or made */
};

/* The length of the longest IP packet on the wire: that of a segment, if there is GSO. `ip` is the
 * length of everything in front of the transport header. It is exact: one byte too many would send
 * every full segment through the kernel. */
static __always_inline __u32 wire_length(struct __sk_buff *skb, const struct packet *p, __u32 ip)
{
	if (!skb->gso_size || !p->transport_header)
		return ip + p->length;
	return ip + p->transport_header + skb->gso_size;
}

static __always_inline bool addr6_equal(const union addr6 *a, const union addr6 *b)
{
	return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

/* Multicast, link-local, loopback and unspecified (RFC 7915 section 5.1). */
static __always_inline bool source6_is_illegal(const union addr6 *source)
{
	if (source->bytes[0] == 0xff || (source->bytes[0] == 0xfe && source->bytes[1] >> 6 == 2))
		return true;
	return !source->halves[0] && bpf_be64_to_cpu(source->halves[1]) <= 1;
}

/* The same in IPv4 (RFC 1812 section 5.3.7). */
static __always_inline bool source_is_illegal(__be32 address)
{
	__u32 first = bpf_ntohl(address) >> 24;

	return first == 0 || first == 127 || first >= 224;
}
