/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors and the packets inside them (RFC 7915 sections 4.2-4.3 and 5.2-5.3, RFC 6146 section
 * 3.5). An error belongs to the session of its inner packet and doesn't change it.
 *
 * An error is [IP][8 bytes of ICMP][inner IP][the start of the inner packet's payload], and perhaps
 * [RFC 4884 extensions]. All but the last two are written anew. The checksum is updated by what was
 * removed and what was added, so that a wrong checksum stays wrong.
 */
#pragma once

#include "icmp_tables.h"
#include "translate.h"

#define LONGEST_ERROR_V4   576	/* RFC 1812 section 4.3.2.3 */
#define LONGEST_ERROR_V6   1280 /* RFC 4443 section 3.1 */
#define SHORTEST_EXTENDED  128	/* RFC 4884 section 3: the inner part before extensions */
#define LOWEST_IPV6_MTU	   1280
#define HEADER_GROWTH	   20 /* an IPv6 header is so much longer than an IPv4 header */
#define TCP_CHECKSUM_BYTES 18 /* of the TCP header, up to the end of its checksum */

static __always_inline struct error_work *work_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&error_work, &zero);
}

static __always_inline __u64 sum_of(const void *bytes, __u32 length)
{
	return bpf_csum_diff(NULL, 0, (__be32 *)bytes, length, 0);
}

static __always_inline __u16 adjust(__u16 check, __u64 gained)
{
	return ~fold((__u64)(__u16)~check + fold(gained));
}

/* Minus `sum`, in ones' complement. */
static __always_inline __u64 less(__u64 sum)
{
	return (__u16)~fold(sum);
}

/* The start of the inner packet's transport header. */
struct inner_ports {
	__be16 source, destination; /* TCP, UDP */
	__be16 identifier;	    /* ICMP queries; the type goes to inner->icmp_type */
};

/* False if the error quotes too little of the header, or a fragment that has none. */
static __always_inline bool read_inner_transport(struct __sk_buff *skb, const struct packet *p,
						 struct packet *inner, struct inner_ports *ports)
{
	__be16 head[4];

	if (is_later_fragment(inner) || inner->l4 + sizeof(head) > p->l4 + p->length ||
	    bpf_skb_load_bytes(skb, inner->l4, head, sizeof(head)))
		return false;
	ports->source = head[0];
	ports->destination = head[1];
	ports->identifier = head[2];
	inner->icmp_type = *(__u8 *)head;
	return true;
}

/* The smaller of `mtu` and the MTU of the route that `route` asks for. */
static __always_inline __u32 smaller_mtu(struct __sk_buff *skb, struct bpf_fib_lookup *route,
					 __u32 mtu)
{
	if (bpf_fib_lookup(skb, route, sizeof(*route), 0) == BPF_FIB_LKUP_RET_FRAG_NEEDED &&
	    route->mtu_result && route->mtu_result < mtu)
		return route->mtu_result;
	return mtu;
}

/* Add to `cut` the sum of the payload bytes from `kept` to `whole`, which are removed. False on
 * failure. */
static __always_inline bool sum_cut(struct __sk_buff *skb, const struct error_work *work,
				    __u32 kept, __u32 whole, __u64 *cut)
{
	__s64 sum;

	if (kept >= whole)
		return true;
	sum = sum_bytes(skb, work->payload_at + kept, whole - kept);
	if (sum < 0)
		return false;
	*cut += sum;
	return true;
}

/* Read the ICMP header and the start of the inner packet's payload. `work->inner` has been parsed
 * up to its transport header. */
static __always_inline enum verdict read_error(struct __sk_buff *skb, const struct packet *p,
					       struct error_work *work)
{
	__u32 end = p->l4 + p->length, from = p->l4 + ICMP_HEADER;
	__s64 header;

	work->payload_at = work->inner.l4;
	work->inner_header = work->payload_at - from;
	if (work->payload_at + sizeof(work->transport) > end)
		return STOP_dropped_icmp_inner_malformed;
	work->payload = end - work->payload_at;
	if (bpf_skb_load_bytes(skb, p->l4, work->icmp, sizeof(work->icmp)) ||
	    bpf_skb_load_bytes(skb, work->payload_at, work->transport, sizeof(work->transport)))
		return STOP_dropped_truncated;
	work->has_tcp_checksum = 0;
	if (work->inner.protocol == IPPROTO_TCP && work->payload >= TCP_CHECKSUM_BYTES) {
		if (bpf_skb_load_bytes(skb, work->payload_at + offsetof(struct tcphdr, check),
				       &work->tcp_checksum, sizeof(work->tcp_checksum)))
			return STOP_dropped_truncated;
		work->has_tcp_checksum = 1;
	}
	header = sum_bytes(skb, from, work->inner_header);
	if (header < 0)
		return STOP_dropped_truncated;
	work->old_sum = header + sum_of(work->icmp, sizeof(work->icmp)) +
			less(*(__u16 *)(work->icmp + 2)) + /* it counts as zero in its own sum */
			sum_of(work->transport, sizeof(work->transport));
	if (work->has_tcp_checksum)
		work->old_sum += work->tcp_checksum;
	return GO_ON;
}

/* Translate the inner packet's ports or identifier, and its checksum if the error quotes it. */
static __always_inline void translate_inner_transport(struct error_work *work, __u64 change,
						      __u32 port_at, __be16 port, __u8 echo_type)
{
	__be16 *words = (__be16 *)work->transport;

	if (work->inner.protocol == IPPROTO_ICMP) {
		__u16 type = bpf_htons(echo_type << 8);

		change += less(words[0]) + type + less(words[2]) + port;
		words[0] = type;
		words[2] = port;
		words[1] = adjust(words[1], change);
		return;
	}
	change += less(words[port_at]) + port;
	words[port_at] = port;
	if (work->inner.protocol == IPPROTO_UDP && words[3])
		words[3] = adjust(words[3], change) ?: 0xffff;
	else if (work->has_tcp_checksum)
		work->tcp_checksum = adjust(work->tcp_checksum, change);
}

/* The new ICMP checksum. `cut` is the sum of what the end of the packet loses. */
static __always_inline __u16 error_checksum(const struct error_work *work, __u64 cut)
{
	__u64 rest = (__u16) ~*(__u16 *)(work->icmp + 2);

	return ~fold(rest + less(work->old_sum) + less(cut) + work->new_sum);
}

/* Write the new type and code, and 0 into the checksum field. Returns the old checksum. */
static __always_inline __u16 begin_icmp_header(struct error_work *work)
{
	__u16 check = *(__u16 *)(work->icmp + 2);

	work->icmp[0] = work->meaning.type;
	work->icmp[1] = work->meaning.code;
	*(__u16 *)(work->icmp + 2) = 0;
	return check;
}

/* Write the new checksum. `headers` is the sum of what else is added: the inner IP header, and for
 * ICMPv6 the pseudo-header. */
static __always_inline void finish_icmp_header(struct error_work *work, __u16 check, __u64 cut,
					       __u64 headers)
{
	work->new_sum = headers + sum_of(work->icmp, ICMP_HEADER) +
			sum_of(work->transport, sizeof(work->transport));
	if (work->has_tcp_checksum)
		work->new_sum += work->tcp_checksum;
	*(__u16 *)(work->icmp + 2) = check;
	*(__u16 *)(work->icmp + 2) = error_checksum(work, cut);
}

/* Write the inner packet's transport header at its new place. */
static __always_inline enum verdict store_inner_transport(struct __sk_buff *skb,
							  const struct error_work *work, __u32 at)
{
	if (bpf_skb_store_bytes(skb, at, work->transport, sizeof(work->transport),
				BPF_F_RECOMPUTE_CSUM))
		return STOP_dropped_internal;
	if (work->has_tcp_checksum &&
	    bpf_skb_store_bytes(skb, at + offsetof(struct tcphdr, check), &work->tcp_checksum,
				sizeof(work->tcp_checksum), BPF_F_RECOMPUTE_CSUM))
		return STOP_dropped_internal;
	return GO_ON;
}

/* The end of the new packet. */
struct ending {
	__u32 payload;	 /* bytes of work->payload that are kept, without padding */
	__u32 padding;	 /* zeroes between the inner part and the extensions */
	__u32 extension; /* length of the extensions; 0 if there are none, or none any more */
	__u32 inner;	 /* value of the length field in bytes, or 0 */
};

/* Decide how much of the end is kept (see SHORTEST_EXTENDED and LONGEST_ERROR_*). `inner_header`
 * and `unit` are those of the new packet. */
static __always_inline void plan_ending(const struct error_work *work, __u32 longest,
					__u32 outer_headers, __u32 inner_header, __u32 unit,
					struct ending *end)
{
	__u32 room = longest - outer_headers - inner_header;

	end->payload = work->payload;
	end->padding = end->extension = end->inner = 0;
	if (work->extended) {
		__u32 quoted = work->extended - work->inner_header;
		__u32 inner = inner_header + quoted;
		__u32 padded = (inner + unit - 1) / unit * unit;

		if (padded < SHORTEST_EXTENDED)
			padded = SHORTEST_EXTENDED;
		end->padding = padded - inner;
		end->extension = work->payload - quoted;
		end->inner = padded;
		if (work->payload + end->padding > room || end->extension > SCRATCH_BYTES) {
			/* no room: drop the extensions and their padding */
			end->padding = end->extension = end->inner = 0;
			end->payload = quoted;
		}
	}
	if (end->payload > room)
		end->payload = room;
}

/* Cut or pad the end. The headers have been written, and the payload is at `at` now. */
static __always_inline enum verdict write_ending(struct __sk_buff *skb, const struct ending *end,
						 __u32 at)
{
	__u32 total = at + end->payload + end->padding;
	__u32 zero = 0, length = end->extension;
	struct scratch *moved;

	if (skb->len != total && bpf_skb_change_tail(skb, total, 0))
		return STOP_dropped_internal;
	if (!end->padding || !length)
		return GO_ON;
	moved = bpf_map_lookup_elem(&scratch, &zero);
	if (!moved)
		return STOP_dropped_internal;
	if (!within(&length, SCRATCH_BYTES))
		return STOP_dropped_internal;
	at += end->payload - length;
	if (bpf_skb_load_bytes(skb, at, moved->bytes, length) ||
	    bpf_skb_store_bytes(skb, at + end->padding, moved->bytes, length, 0))
		return STOP_dropped_internal;
	__builtin_memset(moved->bytes, 0, SHORTEST_EXTENDED);
	length = end->padding;
	if (!within(&length, SHORTEST_EXTENDED))
		return STOP_dropped_internal;
	if (bpf_skb_store_bytes(skb, at, moved->bytes, length, 0))
		return STOP_dropped_internal;
	return GO_ON;
}

/* Find the extensions of RFC 4884, if the error has any. `units` is its length field, in units of
 * `unit` bytes. */
static __always_inline void find_extensions(struct error_work *work, __u32 units, __u32 unit)
{
	__u32 inner = units * unit;

	work->extended = 0;
	if (inner >= SHORTEST_EXTENDED && inner >= work->inner_header + 8 &&
	    inner < work->inner_header + work->payload)
		work->extended = inner;
}
