/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flow offload: packets of known flows are translated where they come in: on the pods' links, and
 * on a gateway node of the Gateway topology on the tunnel's link, too (see tunnel.h).
 *
 * The node's IPv6 forwarding takes longer than the translation. So it is asked once a second for
 * each flow and CPU: a packet that has come through it, to nat64_egress, leaves a note (flows.h)
 * with the link that it came in on. Until the second ends, the packets that follow on that link are
 * translated here, as nat64_egress would. The node's packet filters see the others only: what they
 * refuse leaves no note, so a new rule is followed within a second.
 *
 * Whatever is not plainly such a packet passes to the stack, untouched and uncounted.
 */
#pragma once

#include "send.h"
#include "sources.h"
#include "translate.h"

/* Whether the packet is an IPv6 packet for the node, without anything beside its bytes that
 * forwarding or a later program might use. */
static __always_inline bool is_plain(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IPV6) && skb->pkt_type == PACKET_HOST &&
	       !skb->vlan_present && !skb->mark && !skb->priority;
}

/* Read the rest of a packet, after its IPv6 header: TCP or UDP without extension headers that is
 * neither cut nor padded, and whose hop limit allows another hop. False for all others. */
static __always_inline bool parse_plain_rest(struct __sk_buff *skb, struct packet *p)
{
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return false;
	if (ETH_HLEN + sizeof(struct ipv6hdr) + p->length != skb->len || p->ttl <= 1)
		return false;
	p->ttl--; /* nothing else decrements it */
	reload_bounds();
	return !parse_transport(skb, p, &p->client_port, &p->remote_port);
}

/* Read such a packet to an IPv4 host. */
static __always_inline bool parse_plain(struct __sk_buff *skb, const struct config *config,
					struct packet *p)
{
	return !parse_ipv6(skb, p) && remote_from_ipv6(config, p) && parse_plain_rest(skb, p);
}

/* Whether the kernel would let it pass without fragmentation: it would fit both routes. */
static __always_inline bool fits(struct __sk_buff *skb, const struct config *config,
				 const struct packet *p, const struct flow *flow)
{
	return wire_length(skb, p, sizeof(struct ipv6hdr)) <= config->route_mtu &&
	       wire_length(skb, p, sizeof(struct iphdr)) <= flow->mtu &&
	       p->length <= LONGEST_LENGTH - sizeof(struct iphdr);
}

/* The note by which `p` may go on from here, or NULL. */
static __always_inline struct flow *offloaded_flow(struct __sk_buff *skb,
						   const struct config *config, struct packet *p)
{
	struct flow *flow;

	note_where_from(skb, config, p);
	if (!recall_flow(p, config, seconds_by_tick()))
		return NULL;
	flow = flow_at(p);
	return flow && flow->ingress == skb->ifindex && fits(skb, config, p, flow) ? flow : NULL;
}

/* Translate `p`, which has been read, if it is of a known flow. */
static __always_inline enum tc_action offload_known(struct __sk_buff *skb,
						    const struct config *config, struct packet *p,
						    struct counters *here)
{
	struct flow *flow = offloaded_flow(skb, config, p);
	enum verdict stop;

	if (!flow)
		return ACTION_PASS;
	here->value[DIR_6TO4][COUNT_received]++;
	stop = to_ipv4(skb, config, p);
	if (stop) {
		count_stop(here, DIR_6TO4, stop);
		return ACTION_DROP;
	}
	here->value[DIR_6TO4][COUNT_translated]++;
	here->value[DIR_6TO4][COUNT_offloaded]++;
	return send_recalled(skb, p, flow, here);
}

static __always_inline enum tc_action offload(struct __sk_buff *skb)
{
	struct packet p = {.direction = DIR_6TO4};
	struct counters *here;
	struct config *config;
	__u32 slot = 0;

	if (!is_plain(skb))
		return ACTION_PASS;
	config = active_config(&slot);
	here = counters_here();
	if (!config || !config->interface || !here || !parse_plain(skb, config, &p))
		return ACTION_PASS;
	return offload_known(skb, config, &p, here);
}
