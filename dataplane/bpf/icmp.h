/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ICMP errors, with the packet inside them (RFC 7915 sections 4.2-4.3 and 5.2-5.3, RFC 6146
 * section 3.5). An error belongs to the session of its inner packet and leaves it as it is.
 *
 * An error is [IP][8 bytes of ICMP][inner IP][the start of the inner packet's payload], and
 * perhaps [RFC 4884 extensions]. All but the last two is written anew. The checksum is brought up
 * to date from what was taken out and put in, so that a wrong one stays wrong.
 */
#pragma once

#include "icmp_tables.h"
#include "session.h"
#include "translate.h"

#define ICMP_HEADER	   8
#define LONGEST_ERROR_V4   576	/* RFC 1812 section 4.3.2.3 */
#define LONGEST_ERROR_V6   1280 /* RFC 4443 section 3.1 */
#define SHORTEST_EXTENDED  128	/* RFC 4884 section 3: the inner part before extensions */
#define LOWEST_IPV6_MTU	   1280
#define HEADER_GROWTH	   20 /* an IPv6 header against an IPv4 one */
#define TCP_CHECKSUM_BYTES 18 /* of the TCP header, to have the checksum */

/* One error on its way: too much for the stack. */
struct error_work {
	struct packet inner;
	struct icmp_meaning meaning;
	__u8 icmp[ICMP_HEADER]; /* as it came, then as it goes */
	__u8 transport[8];	/* of the inner packet, likewise */
	__be16 tcp_checksum;	/* likewise; valid if has_tcp_checksum */
	__u16 has_tcp_checksum;
	__u32 payload_at, payload; /* inner payload and all that follows: offset, length */
	__u32 inner_header;	   /* length of the inner IP header, as it came */
	__u32 extended;		   /* length of the inner part that RFC 4884 speaks of, or 0 */
	__u64 old_sum, new_sum;	   /* of what is taken out and what is put in */
	__u8 headers[104];	   /* outer IP, ICMP, inner IP: what is put in */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct error_work);
	__uint(max_entries, 1);
} error_work SEC(".maps");

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

/* Ones' complement minus. */
static __always_inline __u64 less(__u64 sum)
{
	return (__u16)~fold(sum);
}

/* Read the ICMP header and what the inner packet's payload begins with. `work->inner` has been
 * parsed as far as its transport header. */
static __always_inline int read_error(struct __sk_buff *skb, const struct packet *p,
				      struct error_work *work)
{
	__u32 end = p->l4 + p->length, from = p->l4 + ICMP_HEADER;
	__s64 header;

	work->payload_at = work->inner.l4;
	work->inner_header = work->payload_at - from;
	if (work->payload_at + sizeof(work->transport) > end)
		return COUNT_dropped_icmp_inner_malformed;
	work->payload = end - work->payload_at;
	if (bpf_skb_load_bytes(skb, p->l4, work->icmp, sizeof(work->icmp)) ||
	    bpf_skb_load_bytes(skb, work->payload_at, work->transport, sizeof(work->transport)))
		return COUNT_dropped_truncated;
	work->has_tcp_checksum = 0;
	if (work->inner.protocol == IPPROTO_TCP && work->payload >= TCP_CHECKSUM_BYTES) {
		if (bpf_skb_load_bytes(skb, work->payload_at + offsetof(struct tcphdr, check),
				       &work->tcp_checksum, sizeof(work->tcp_checksum)))
			return COUNT_dropped_truncated;
		work->has_tcp_checksum = 1;
	}
	header = sum_bytes(skb, from, work->inner_header);
	if (header < 0)
		return COUNT_dropped_truncated;
	work->old_sum = header + sum_of(work->icmp, sizeof(work->icmp)) +
			less(*(__u16 *)(work->icmp + 2)) + /* counts as zero in its own sum */
			sum_of(work->transport, sizeof(work->transport));
	if (work->has_tcp_checksum)
		work->old_sum += work->tcp_checksum;
	return GO_ON;
}

/* The inner packet's ports or identifier, and its checksum where that was quoted. */
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

/* What the new ICMP checksum is, when `cut` is the sum of what the end of the packet loses. */
static __always_inline __u16 error_checksum(const struct error_work *work, __u64 cut)
{
	__u64 rest = (__u16) ~*(__u16 *)(work->icmp + 2);

	return ~fold(rest + less(work->old_sum) + less(cut) + work->new_sum);
}

/* The end of the new packet. */
struct ending {
	__u32 payload;	 /* kept of work->payload, padding not counted */
	__u32 padding;	 /* zeroes between the inner part and the extensions */
	__u32 extension; /* length of these; 0 where there are none (any more) */
	__u32 inner;	 /* what the length field is to say, in bytes; or 0 */
};

/* How much of the end stays (see SHORTEST_EXTENDED and LONGEST_ERROR_*). `inner_header` and `unit`
 * are those of the new packet. */
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
			/* no room: the extensions go, the padding with them */
			end->padding = end->extension = end->inner = 0;
			end->payload = quoted;
		}
	}
	if (end->payload > room)
		end->payload = room;
}

/* Cut or pad the end. The headers are written already and `at` is where the payload is now. */
static __always_inline int write_ending(struct __sk_buff *skb, const struct ending *end, __u32 at)
{
	__u32 total = at + end->payload + end->padding;
	__u32 zero = 0, length = end->extension;
	struct scratch *moved;

	if (skb->len != total && bpf_skb_change_tail(skb, total, 0))
		return COUNT_dropped_internal;
	if (!end->padding || !length)
		return GO_ON;
	moved = bpf_map_lookup_elem(&scratch, &zero);
	if (!moved)
		return COUNT_dropped_internal;
	if (!within(&length, SCRATCH_BYTES))
		return COUNT_dropped_internal;
	at += end->payload - length;
	if (bpf_skb_load_bytes(skb, at, moved->bytes, length) ||
	    bpf_skb_store_bytes(skb, at + end->padding, moved->bytes, length, 0))
		return COUNT_dropped_internal;
	__builtin_memset(moved->bytes, 0, SHORTEST_EXTENDED);
	length = end->padding;
	if (!within(&length, SHORTEST_EXTENDED))
		return COUNT_dropped_internal;
	if (bpf_skb_store_bytes(skb, at, moved->bytes, length, 0))
		return COUNT_dropped_internal;
	return GO_ON;
}

/* RFC 4884: has the error extensions? `units` is its length field, in units of `unit` bytes. */
static __always_inline void find_extensions(struct error_work *work, __u32 units, __u32 unit)
{
	__u32 inner = units * unit;

	work->extended = 0;
	if (inner >= SHORTEST_EXTENDED && inner >= work->inner_header + 8 &&
	    inner < work->inner_header + work->payload)
		work->extended = inner;
}
