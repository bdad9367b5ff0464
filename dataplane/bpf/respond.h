/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors that the program makes itself, for refusals that the kernel doesn't know of. The
 * kernel routes them. */
#pragma once

#include "icmp_tables.h"
#include "policy.h"
#include "send.h"
#include "translate.h"

/* Per kind and CPU. RFC 4443 section 2.4 (f) asks for a limit. */
#define ERRORS_PER_SECOND 256
#define ERROR_HOPS	  64
#define QUOTE_V6	  (1280 - 48)
#define QUOTE_V4	  (576 - 28)

struct refusal {
	__u8 type, code;
};

/* What the sender is told. A refusal that isn't named here stays silent, because anybody may have
 * sent the packet. */
static __always_inline struct refusal refusal_of(enum verdict reason)
{
	struct refusal refusal = {};

	switch (reason) {
	case STOP_dropped_ports_exhausted:
	case STOP_dropped_session_table_full:
	case STOP_dropped_client_port_limit:
	case STOP_dropped_client_port_share:
	case STOP_dropped_client_session_limit:
		refusal.type = V6_UNREACHABLE;
		refusal.code = 3; /* address: RFC 6146 section 3.5.1.1 */
		break;
	case STOP_dropped_unknown_transport:
		refusal.type = V6_UNREACHABLE;
		refusal.code = 4; /* port: RFC 6146 section 3.4 */
		break;
	case STOP_dropped_destination_denied:
	case STOP_dropped_destination_not_global:
	case STOP_dropped_destination_special:
	case STOP_dropped_destination_local:
	case STOP_dropped_destination_prohibited:
		refusal.type = V6_UNREACHABLE;
		refusal.code = 1; /* prohibited */
		break;
	case STOP_dropped_destination_without_route:
	case STOP_dropped_destination_unreachable:
	case STOP_dropped_no_gateway:
		refusal.type = V6_UNREACHABLE;
		refusal.code = 0; /* no route */
		break;
	case STOP_dropped_routing_header:
		refusal.type = V6_PARAMETER_PROBLEM;
		refusal.code = 0; /* RFC 7915 section 5.1 */
		break;
	default:
		break;
	}
	return refusal;
}

enum response { ERRORS, RESETS };

/* Each kind has a budget of its own, so that neither uses up the other's. */
static __always_inline bool may_send(enum response kind)
{
	__u32 which = kind, now = now_seconds();
	struct error_budget *budget = bpf_map_lookup_elem(&error_budget, &which);

	if (!budget)
		return false;
	if (budget->second != now) {
		budget->second = now;
		budget->left = ERRORS_PER_SECOND;
	}
	if (!budget->left)
		return false;
	budget->left--;
	return true;
}

/* Cut the packet to what an error may quote, and make room in front of it. Returns the quoted
 * length, or -1. */
static __always_inline int quote(struct __sk_buff *skb, const struct packet *p, __u32 longest,
				 __u32 headers)
{
	__u32 length = p->l4 - p->l3 + p->length; /* frames may be padded */

	if (length > longest)
		length = longest;
	if ((skb->len != p->l3 + length || skb->gso_size) &&
	    bpf_skb_change_tail(skb, p->l3 + length, 0))
		return -1;
	if (bpf_skb_adjust_room(skb, headers, BPF_ADJ_ROOM_MAC, KEEP_GSO))
		return -1;
	return length;
}

/* Whether no error may answer the packet (RFC 4443 section 2.4 (e)): it is an ICMPv6 error or
 * redirect, or may be one, or its source names no single host. */
static __always_inline bool is_unanswerable(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	if (source6_is_illegal(&p->client))
		return true;
	if (p->protocol != IPPROTO_ICMPV6)
		return false; /* queries that we translate are IPPROTO_ICMP by now */
	return is_later_fragment(p) || bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)) ||
	       type < V6_FIRST_QUERY || type == V6_REDIRECT;
}

/* Turn the packet into an ICMPv6 error about itself. False if that is impossible or not allowed. */
__noinline int respond_ipv6(struct __sk_buff *skb, struct packet *p, enum verdict reason)
{
	struct {
		struct ipv6hdr ip6;
		struct icmphdr icmp;
	} head = {};
	struct refusal refusal = refusal_of(reason);
	int length;
	__s64 sum;

	if (!p || !refusal.type || !p->l3 || is_unanswerable(skb, p))
		return 0;
	if (!may_send(ERRORS)) {
		count(DIR_6TO4, COUNT_icmp_errors_suppressed);
		return 0;
	}
	length = quote(skb, p, QUOTE_V6, sizeof(head));
	if (length < 0)
		return 0;
	head.ip6.version = 6;
	head.ip6.payload_len = bpf_htons(sizeof(head.icmp) + length);
	head.ip6.nexthdr = IPPROTO_ICMPV6;
	head.ip6.hop_limit = ERROR_HOPS;
	__builtin_memcpy(&head.ip6.saddr, &p->remote6, sizeof(p->remote6));
	__builtin_memcpy(&head.ip6.daddr, &p->client, sizeof(p->client));
	head.icmp.type = refusal.type;
	head.icmp.code = refusal.code;
	head.icmp.rest = bpf_htonl(p->error_info);

	sum = sum_bytes(skb, p->l3 + sizeof(head), length);
	if (sum < 0)
		return 0;
	p->length = sizeof(head.icmp) + length;
	sum += pseudo6_sum(p);
	sum += bpf_csum_diff(NULL, 0, (__be32 *)&head.icmp, sizeof(head.icmp), 0);
	head.icmp.checksum = ~fold(sum);
	return !bpf_skb_store_bytes(skb, p->l3, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM);
}

/* ICMPv4 3/5, source route failed (RFC 7915 section 4.1): the only refusal of an IPv4 packet that
 * the program reports. */
__noinline int respond_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
	} head = {};
	int length;
	__s64 sum;

	if (!p || is_later_fragment(p) ||
	    (p->protocol == IPPROTO_ICMP && !is_query_v4(p->icmp_type)))
		return 0; /* RFC 1812 section 4.3.2.7 */
	if (!may_send(ERRORS)) {
		count(DIR_4TO6, COUNT_icmp_errors_suppressed);
		return 0;
	}
	length = quote(skb, p, QUOTE_V4, sizeof(head));
	if (length < 0)
		return 0;
	head.ip.version = 4;
	head.ip.ihl = 5;
	head.ip.tot_len = bpf_htons(sizeof(head) + length);
	head.ip.ttl = ERROR_HOPS;
	head.ip.protocol = IPPROTO_ICMP;
	head.ip.id = bpf_get_prandom_u32();
	head.ip.saddr = p->pool;
	head.ip.daddr = p->remote;
	head.ip.check = ipv4_header_checksum(&head.ip);
	head.icmp.type = V4_UNREACHABLE;
	head.icmp.code = 5;
	sum = sum_bytes(skb, p->l3 + sizeof(head), length);
	if (sum < 0)
		return 0;
	sum += bpf_csum_diff(NULL, 0, (__be32 *)&head.icmp, sizeof(head.icmp), 0);
	head.icmp.checksum = ~fold(sum);
	return !bpf_skb_store_bytes(skb, p->l3, &head, sizeof(head), BPF_F_RECOMPUTE_CSUM);
}
