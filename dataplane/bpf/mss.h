/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maximum segment size (MSS) that TCP connections agree on.
 *
 * Translation adds 20 bytes to each packet, and neither end knows the links of the other side. Path
 * MTU discovery tells them, but only as long as no firewall drops ICMP. So the program lowers the
 * MSS of SYNs in both directions to what the routes on both sides of the node can take. No RFC
 * about NAT64 asks for this.
 */
#pragma once

#include "route.h"
#include "translate.h"

#define TCP_OPTION_END	 0
#define TCP_OPTION_NOP	 1
#define TCP_OPTION_MSS	 2
#define MSS_LENGTH	 4
#define TCP_MAX_OPTIONS	 40
#define IPV4_TCP_HEADERS (sizeof(struct iphdr) + sizeof(struct tcphdr))
#define IPV6_TCP_HEADERS (sizeof(struct ipv6hdr) + sizeof(struct tcphdr))
#define SMALLEST_MTU	 68 /* RFC 791: a route with a smaller MTU is ignored */

/* The MTU of a route in bytes, or 0 if the kernel has no answer. The lookup is for a packet that is
 * too long for any route, so the kernel reports the MTU whether it knows the neighbour or not. */
static __always_inline __u32 mtu_of_route(struct __sk_buff *skb, struct bpf_fib_lookup *route,
					  __u32 flags)
{
	route->tot_len = LONGEST_LENGTH;
	return bpf_fib_lookup(skb, route, sizeof(*route), flags) == BPF_FIB_LKUP_RET_FRAG_NEEDED
		       ? route->mtu_result
		       : 0;
}

/* The most bytes that a segment of this connection may carry; LONGEST_LENGTH if no route limits it.
 */
__noinline int longest_segment(struct __sk_buff *skb, const struct packet *p, __u32 interface)
{
	struct bpf_fib_lookup route = {};
	__u32 longest = LONGEST_LENGTH, mtu;

	REQUIRE(p, longest);
	ask_ipv4(&route, p, interface);
	mtu = mtu_of_route(skb, &route, mark_route(skb, p, &route));
	if (mtu >= SMALLEST_MTU)
		longest = mtu - IPV4_TCP_HEADERS;
	__builtin_memset(&route, 0, sizeof(route));
	ask_ipv6(&route, p, interface);
	mtu = mtu_of_route(skb, &route, 0);
	if (mtu >= SMALLEST_MTU && mtu - IPV6_TCP_HEADERS < longest)
		longest = mtu - IPV6_TCP_HEADERS;
	return longest;
}

/* The offset of the TCP option after the one at `at`; 0 if there is none. If the one at `at` is the
 * MSS, the negated offset of its value. */
__noinline int tcp_option_after(struct __sk_buff *skb, __u32 at, __u32 end)
{
	__u8 option[2];

	if (at + sizeof(option) > end || bpf_skb_load_bytes(skb, at, option, sizeof(option)))
		return 0;
	if (option[0] == TCP_OPTION_END)
		return 0;
	if (option[0] == TCP_OPTION_NOP)
		return at + 1;
	if (option[0] == TCP_OPTION_MSS)
		return option[1] == MSS_LENGTH && at + MSS_LENGTH <= end ? -(int)(at + 2) : 0;
	return option[1] < 2 ? 0 : at + option[1];
}

/* Lower the MSS of a SYN that has not been translated yet. A SYN without an MSS is left as it is:
 * its receiver then assumes the smallest, 536 or 1220 bytes (RFC 9293 section 3.7.1). */
__noinline enum verdict lower_mss(struct __sk_buff *skb, const struct packet *p, __u32 interface)
{
	__u32 end, longest;
	int at, i;
	__be16 was, becomes;

	REQUIRE(p, STOP_dropped_internal);
	at = p->l4 + sizeof(struct tcphdr);
	end = p->l4 + p->transport_header;
	for (i = 0; i < TCP_MAX_OPTIONS && at > 0; i++)
		at = tcp_option_after(skb, at, end);
	if (at >= 0 || bpf_skb_load_bytes(skb, -at, &was, sizeof(was)))
		return GO_ON;
	longest = longest_segment(skb, p, interface);
	if (bpf_ntohs(was) <= longest)
		return GO_ON;
	becomes = bpf_htons(longest);
	if (bpf_skb_store_bytes(skb, -at, &becomes, sizeof(becomes), 0))
		return STOP_dropped_internal;
	if ((-at - p->l4) & 1) { /* the value straddles two words of the checksum */
		was = __builtin_bswap16(was);
		becomes = __builtin_bswap16(becomes);
	}
	if (bpf_l4_csum_replace(skb, p->l4 + offsetof(struct tcphdr, check), was, becomes,
				sizeof(becomes)))
		return STOP_dropped_internal;
	count(p->direction, COUNT_mss_clamped);
	return GO_ON;
}

inline_step enum verdict clamp_mss(struct __sk_buff *skb, const struct config *config,
				   const struct packet *p)
{
	if (p->protocol != IPPROTO_TCP || !(p->tcp_flags & TCP_FLAG_SYN_BIT) ||
	    !(config->flags & CONFIG_CLAMP_MSS))
		return GO_ON;
	return lower_mss(skb, p, config->interface);
}
