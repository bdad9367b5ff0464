// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The CLAT of pods (464XLAT, RFC 6877): the stateless translator (RFC 7915) on a pod's own link.
 *
 * The pod's IPv4 address is always 192.0.0.2 (RFC 7335). What leaves the pod is IPv6 between the
 * pod's address and the CLAT's prefix, behind which the stateful translator (nat64.bpf.c) is. No
 * IPv4 and no ARP crosses the link in either direction.
 *
 * struct packet names the ends as the stateful translator sees them: `client` is the source of an
 * IPv6 packet, `remote6` its destination. Here, the pod is the one end of both versions:
 *
 *	out	remote (192.0.0.2) -> pool	becomes	remote6 (the pod) -> client (in the prefix)
 *	in	client (in the prefix) -> remote6 (the pod)	becomes	pool -> remote (192.0.0.2)
 *
 * The translation is a part of the pod's own stack, so it takes nothing off the TTL.
 */
#include "abi_clat.h"
#include "icmp_error_to_ipv4.h"
#include "icmp_error_to_ipv6.h"
#include "translate.h"

#define CLAT_ADDRESS 0xc0000002 /* 192.0.0.2 */
/* 192.0.0.1 stands for IPv6 routers, which have no IPv4 address (RFC 6791 section 3). */
#define ROUTER_ADDRESS 0xc0000001

MAP(BPF_MAP_TYPE_ARRAY, clat_pods, __u32, struct clat_pod, MAX_CLAT_PODS, 0);

/* The only thing that the translation of headers asks of a config. */
TABLE struct config headers = {.flags = CONFIG_COPY_TRAFFIC_CLASS};

/* The agent sets the class id with the filter, and the kernel copies it before each run. A map by
 * network namespace would need a helper that came with Linux 6.15. */
static __always_inline struct clat_pod *pod_of(struct __sk_buff *skb)
{
	__u32 index = index_below(skb->tc_classid, MAX_CLAT_PODS);
	struct clat_pod *pod;

	skb->tc_classid = 0;
	pod = bpf_map_lookup_elem(&clat_pods, &index);
	return pod && pod->used ? pod : NULL;
}

static __always_inline bool in_prefix(const struct clat_pod *pod, const union addr6 *address)
{
	return address->words[0] == pod->prefix[0] && address->words[1] == pod->prefix[1] &&
	       address->words[2] == pod->prefix[2];
}

static __always_inline void embed(const struct clat_pod *pod, __be32 address, union addr6 *to)
{
	to->words[0] = pod->prefix[0];
	to->words[1] = pod->prefix[1];
	to->words[2] = pod->prefix[2];
	to->words[3] = address;
}

/* An ICMPv4 error of the pod's kernel about a packet that came in. */
__noinline enum verdict error_out(struct __sk_buff *skb, struct packet *p, struct clat_pod *pod)
{
	struct error_work *work = work_here();
	struct packet *inner;
	__u32 mtu = 0;

	REQUIRE(p, STOP_dropped_internal);
	REQUIRE(pod, STOP_dropped_internal);
	REQUIRE(work, STOP_dropped_internal);
	inner = &work->inner;
	if (parse_inner_ipv4(skb, p, inner))
		return STOP_dropped_icmp_inner_malformed;
	if (p->pool != inner->pool || inner->remote != bpf_htonl(CLAT_ADDRESS))
		return STOP_dropped_icmp_ends_differ; /* not where its inner packet is from */
	STEP(read_error(skb, p, work));
	work->meaning = meaning_4to6(p->icmp_type, p->icmp_code);
	if (!work->meaning.known)
		return STOP_dropped_icmp_type;
	inner->remote6 = p->remote6;
	inner->client = p->client;
	inner->client_port = inner->pool_port;
	if (work->meaning.rest == REST_MTU) {
		mtu = mtu_in_error(work) + HEADER_GROWTH;
		if (mtu < LOWEST_IPV6_MTU)
			mtu = LOWEST_IPV6_MTU;
	}
	STEP(write_error_ipv6(skb, &headers, p, work, mtu));
	count(DIR_4TO6, COUNT_icmp_errors_translated);
	return GO_ON;
}

inline_step enum verdict translate_out(struct __sk_buff *skb, struct clat_pod *pod,
				       struct packet *p)
{
	enum verdict stop;

	STEP(parse_ipv4(skb, p));
	if (p->remote != bpf_htonl(CLAT_ADDRESS))
		return STOP_dropped_source_illegal;
	if (source_is_illegal(p->pool)) /* neither is it a destination of unicast */
		return STOP_dropped_destination_special;
	if (!is_translatable(p->protocol))
		return STOP_dropped_unknown_transport;
	if (is_fragment(p) && p->protocol == IPPROTO_ICMP)
		return STOP_dropped_icmp_fragment;
	if (p->extensions)
		STEP(check_options(skb, p));
	p->remote6 = pod->address;
	embed(pod, p->pool, &p->client);
	p->flags |= PACKET_FORWARDED; /* hop_limit_of() takes nothing off */
	if (is_later_fragment(p))
		return header_to_ipv6(skb, &headers, p);
	stop = parse_transport(skb, p, &p->remote_port, &p->pool_port);
	if (stop)
		return is_fragment(p) ? STOP_dropped_fragment_unexpected : stop;
	if (p->protocol == IPPROTO_ICMP && !is_query_v4(p->icmp_type))
		return error_out(skb, p, pod);
	if (is_fragment(p) && p->flags & PACKET_ZERO_CHECKSUM)
		return STOP_dropped_udp_zero_checksum_fragment;
	p->client_port = p->pool_port;
	return to_ipv6(skb, &headers, p);
}

/* An ICMPv6 error. It is about IPv4 if its inner packet went from the pod to the prefix; its own
 * source may be any router. */
__noinline enum verdict error_in(struct __sk_buff *skb, struct packet *p, struct clat_pod *pod)
{
	struct error_work *work = work_here();
	struct packet *inner;
	__u32 mtu = 0;
	bool foreign;

	REQUIRE(p, STOP_dropped_internal);
	REQUIRE(pod, STOP_dropped_internal);
	REQUIRE(work, STOP_dropped_internal);
	inner = &work->inner;
	foreign = !in_prefix(pod, &p->client);
	if (read_inner_ipv6(skb, p, inner))
		return foreign ? STOP_passed : STOP_dropped_icmp_inner_malformed;
	if (!in_prefix(pod, &inner->client))
		return foreign ? STOP_passed : STOP_dropped_icmp_without_session;
	if (!addr6_equal(&p->remote6, &inner->remote6))
		return STOP_dropped_icmp_ends_differ; /* not where its inner packet is from */
	STEP(read_inner_ipv6_rest(skb, p, inner));
	STEP(read_error(skb, p, work));
	work->meaning = meaning_6to4(p->icmp_type, p->icmp_code);
	if (!work->meaning.known)
		return STOP_dropped_icmp_type;
	p->pool = foreign ? bpf_htonl(ROUTER_ADDRESS) : p->client.words[3];
	inner->remote = p->remote = bpf_htonl(CLAT_ADDRESS);
	inner->pool = inner->client.words[3];
	inner->pool_port = inner->client_port;
	if (work->meaning.rest == REST_MTU)
		mtu = mtu_in_error6(work);
	STEP(write_error_ipv4(skb, &headers, p, work, mtu));
	count(DIR_6TO4, COUNT_icmp_errors_translated);
	return GO_ON;
}

inline_step enum verdict translate_in(struct __sk_buff *skb, struct clat_pod *pod, struct packet *p)
{
	enum verdict stop;
	bool foreign;

	if (parse_ipv6(skb, p) || !addr6_equal(&p->remote6, &pod->address))
		return STOP_passed; /* the pod's kernel handles what is wrong with it */
	foreign = !in_prefix(pod, &p->client);
	if (foreign && p->protocol != IPPROTO_ICMPV6)
		return STOP_passed;
	stop = parse_ipv6_rest(skb, p);
	if (stop)
		return foreign ? STOP_passed : stop;
	if (is_fragment(p) && p->protocol == IPPROTO_ICMP)
		return foreign ? STOP_passed : STOP_dropped_icmp_fragment;
	p->remote = bpf_htonl(CLAT_ADDRESS);
	p->pool = p->client.words[3];
	if (!foreign && source_is_illegal(p->pool))
		return STOP_dropped_source_illegal;
	if (is_later_fragment(p))
		return header_to_ipv4(skb, &headers, p);
	stop = parse_transport(skb, p, &p->client_port, &p->remote_port);
	if (stop && foreign)
		return STOP_passed;
	if (stop)
		return is_fragment(p) ? STOP_dropped_fragment_unexpected : stop;
	if (p->protocol == IPPROTO_ICMP) {
		if (p->icmp_type < V6_FIRST_QUERY)
			return error_in(skb, p, pod);
		if (foreign)
			return STOP_passed; /* neighbour discovery, for example */
		if (!is_query_v6(p->icmp_type))
			return STOP_dropped_icmp_type;
	}
	p->pool_port = p->client_port;
	return to_ipv4(skb, &headers, p);
}

/* Count what became of the packet. A packet that isn't for the CLAT is not counted. */
static __always_inline enum tc_action finish(const struct packet *p, enum direction direction,
					     struct counters *here, enum verdict stop)
{
	if (stop == STOP_passed)
		return ACTION_PASS;
	here->value[direction][COUNT_received]++;
	if (!stop) {
		here->value[direction][COUNT_translated]++;
		if (is_fragment(p))
			here->value[direction][COUNT_fragments_translated]++;
		return ACTION_PASS;
	}
	count_stop(here, direction, stop);
	return ACTION_DROP;
}

static __always_inline bool is_ipv4_or_arp(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_ARP);
}

SEC("tc") int clat_egress(struct __sk_buff *skb)
{
	struct clat_pod *pod = pod_of(skb);
	struct packet p = {.direction = DIR_4TO6, .l3 = ETH_HLEN};
	struct counters *here = counters_here();
	enum verdict stop;

	if (!here)
		return ACTION_DROP;
	if (!is_ipv4_or_arp(skb))
		return ACTION_PASS;
	if (!pod)
		stop = STOP_dropped_not_configured;
	else if (skb->protocol == bpf_htons(ETH_P_ARP))
		stop = STOP_dropped_source_illegal; /* nobody outside has an IPv4 address to ask for
						     */
	else
		stop = translate_out(skb, pod, &p);
	return finish(&p, DIR_4TO6, here, stop);
}

SEC("tc") int clat_ingress(struct __sk_buff *skb)
{
	struct clat_pod *pod = pod_of(skb);
	struct packet p = {.direction = DIR_6TO4, .l3 = ETH_HLEN};
	struct counters *here = counters_here();
	enum verdict stop = STOP_passed;

	if (!here)
		return ACTION_DROP;
	if (is_ipv4_or_arp(skb))
		stop = STOP_dropped_source_illegal; /* a neighbour would get past the rules for IPv6
						     */
	else if (pod && skb->protocol == bpf_htons(ETH_P_IPV6))
		stop = translate_in(skb, pod, &p);
	return finish(&p, DIR_6TO4, here, stop);
}

char _license[] SEC("license") = "Dual BSD/GPL";
