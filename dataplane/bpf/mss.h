/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maximum segment size (MSS) that TCP connections agree on.
 *
 * Translation adds 20 bytes to each packet, and neither end knows the links of the other side. Path
 * MTU discovery tells them, but only as long as no firewall drops ICMP. So the program lowers the
 * MSS of SYNs in both directions to what the routes on both sides of the node can take. No RFC
 * about NAT64 asks for this.
 */
#pragma once

#include "flows.h"
#include "session_lookup.h"
#include "translate.h"

#define TCP_OPTION_END	 0
#define TCP_OPTION_NOP	 1
#define TCP_OPTION_MSS	 2
#define MSS_LENGTH	 4
#define TCP_MAX_OPTIONS	 40
#define IPV4_TCP_HEADERS (sizeof(struct iphdr) + sizeof(struct tcphdr))
#define IPV6_TCP_HEADERS (sizeof(struct ipv6hdr) + sizeof(struct tcphdr))
#define SHORTEST_LENGTH	 1
#define SMALLEST_MTU	 68 /* RFC 791: a route with a smaller MTU is ignored */

/* The MTU in bytes of the route to one side, or 0 if the kernel has no answer. If `p` takes that
 * route itself, it is noted, so sending `p` takes no second lookup. */
static __always_inline __u32 mtu_of_route(struct __sk_buff *skb, struct packet *p,
					  const struct config *config, __u8 family)
{
	bool own = family == (p->direction == DIR_6TO4 ? AF_INET : AF_INET6);
	struct bpf_fib_lookup route;
	__u32 flags = 0;
	long found;
	int i;

	for (i = 0; i < 2; i++) {
		__builtin_memset(&route, 0, sizeof(route));
		if (family == AF_INET) {
			ask_ipv4(&route, p, config->interface);
			flags = mark_route(skb, p, &route);
		} else {
			ask_ipv6(&route, p, config->interface);
		}
		/* The kernel tells the MTU if it knows the neighbour. If it doesn't, it tells it
		 * only for a packet that is too long. */
		route.tot_len = i ? LONGEST_LENGTH : SHORTEST_LENGTH;
		found = bpf_fib_lookup(skb, &route, sizeof(route), flags);
		if (found != BPF_FIB_LKUP_RET_NO_NEIGH)
			break;
	}
	if (found == BPF_FIB_LKUP_RET_SUCCESS && own && p->flags & PACKET_NOTABLE) {
		note_resolved(&route);
		note_flow(skb, p, config, &route, false);
		p->flags |= PACKET_ROUTED;
	}
	return found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_FRAG_NEEDED
		       ? route.mtu_result
		       : 0;
}

/* Lower `longest` to what a packet of that MTU can carry. */
static __always_inline __u32 segment_of(__u32 mtu, __u32 headers, __u32 longest)
{
	return mtu >= SMALLEST_MTU && mtu - headers < longest ? mtu - headers : longest;
}

/* Let the session of a SYN remember what was found for it: the answer carries at most the same. */
static __noinline void remember_segment(const struct packet *p)
{
	struct session_key key;
	struct session *session;

	session_key_of(p, &key);
	session = bpf_map_lookup_elem(&sessions, &key);
	if (session && session->generation == p->generation)
		session->life.segment = p->segment;
}

/* The most bytes that a segment of this connection may carry; LONGEST_LENGTH if no route limits it.
 */
__noinline int longest_segment(struct __sk_buff *skb, struct packet *p)
{
	__u32 longest = LONGEST_LENGTH;
	struct config *config;

	REQUIRE(p, longest);
	config = config_of(p);
	if (!config)
		return longest;
	longest = segment_of(mtu_of_route(skb, p, config, AF_INET), IPV4_TCP_HEADERS, longest);
	if (!p->mtu6)
		p->mtu6 = mtu_of_route(skb, p, config, AF_INET6);
	return segment_of(p->mtu6, IPV6_TCP_HEADERS, longest);
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
__noinline enum verdict lower_mss(struct __sk_buff *skb, struct packet *p)
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
	if (!p->segment) {
		p->segment = longest_segment(skb, p);
		if (tcp_event(p->tcp_flags) == TCP_SYN)
			remember_segment(p);
	}
	longest = p->segment;
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

/* Whether the MSS is known to be low enough. In most SYNs it is the first option. */
static __always_inline bool is_low_enough(struct __sk_buff *skb, const struct packet *p)
{
	struct {
		__u8 kind, length;
		__be16 value;
	} first;

	return p->segment && p->transport_header >= sizeof(struct tcphdr) + sizeof(first) &&
	       !bpf_skb_load_bytes(skb, p->l4 + sizeof(struct tcphdr), &first, sizeof(first)) &&
	       first.kind == TCP_OPTION_MSS && first.length == MSS_LENGTH &&
	       bpf_ntohs(first.value) <= p->segment;
}

static __always_inline bool is_clamped(const struct config *config, const struct packet *p)
{
	return p->protocol == IPPROTO_TCP && p->tcp_flags & TCP_FLAG_SYN_BIT &&
	       config->flags & CONFIG_CLAMP_MSS;
}

inline_step enum verdict clamp_mss(struct __sk_buff *skb, const struct config *config,
				   struct packet *p)
{
	if (!is_clamped(config, p) || is_low_enough(skb, p))
		return GO_ON;
	return lower_mss(skb, p);
}
