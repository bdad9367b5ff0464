/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv4 to IPv6: packets that arrive on an uplink, or on lo, for one of our mappings. All others
 * pass to the host. */
#pragma once

#include "arp.h"
#include "held_fragments.h"
#include "icmp_4to6.h"
#include "open.h"
#include "refragment.h"
#include "respond.h"
#include "send.h"
#include "session_update.h"
#include "translate.h"

inline_step enum verdict find_session_of_ipv4(struct __sk_buff *skb, const struct config *config,
					      struct packet *p)
{
	struct session_key key;
	struct session *session;
	__u32 now;

	/* a note doesn't have the zone */
	if (!comes_by_lan(skb, config) && recall_flow(p, config, seconds_by_tick()))
		return GO_ON;
	now = p->second = now_seconds();
	session_key_of(p, &key);
	session = bpf_map_lookup_elem(&sessions, &key);
	if (session && !is_way_in(skb, config, session->zone))
		return STOP_passed;
	if (session && session->life.expires > now && !(session->flags & SESSION_CONTACT)) {
		p->client = session->client;
		p->client_port = session->client_port;
		return use_session(skb, config, p, session, now);
	}
	return open_from_ipv4(skb, p);
}

/* No mapping has a port outside this range: most of the node's own traffic passes here. */
static __always_inline bool may_be_ours(const struct config *config, const struct packet *p)
{
	__u16 port = bpf_ntohs(p->pool_port);

	return port >= config->lowest_port && port <= config->highest_port;
}

static __always_inline void mark_slow(struct packet *p)
{
	if (p->ttl <= 1)
		p->flags |= PACKET_SLOW; /* the kernel sends "time exceeded" */
}

static __always_inline bool is_pool_address(__u32 slot, __be32 address)
{
	struct destination_key key = {.prefix_length = 64, .slot = slot, .address = address};
	struct destination *found = bpf_map_lookup_elem(&destinations, &key);

	return found && found->pool;
}

/* The steps after the session is known and before the headers are written. */
inline_step enum verdict prepare_for_ipv6(struct __sk_buff *skb, const struct config *config,
					  struct packet *p)
{
	embed_for_session(config, p->session_flags, p->remote, &p->remote6);
	mark_slow(p);
	return wants_fragmenting(skb, config, p) ? refragment(skb, p) : GO_ON;
}

/* A later fragment has no ports. Until the first fragment arrives, it may be ours or the host's. */
inline_step enum verdict
translate_later_fragment_4to6(struct __sk_buff *skb, const struct config *config, struct packet *p)
{
	STEP(later_fragment(skb, p));
	if (p->extensions)
		STEP(check_options(skb, p));
	STEP(prepare_for_ipv6(skb, config, p));
	count(DIR_4TO6, COUNT_fragments_translated);
	return header_to_ipv6(skb, config, p);
}

/* Read the ports and find the session that they belong to. */
inline_step enum verdict find_ipv4(struct __sk_buff *skb, const struct config *config,
				   struct packet *p)
{
	if (parse_transport(skb, p, &p->remote_port, &p->pool_port))
		return STOP_passed;
	if (p->protocol == IPPROTO_ICMP)
		p->remote_port = 0;
	if (!may_be_ours(config, p))
		return STOP_passed;
	STEP(find_session_of_ipv4(skb, config, p));
	if (is_fragment(p) && p->protocol == IPPROTO_ICMP)
		return STOP_dropped_icmp_fragment;
	if (is_fragment(p) && p->flags & PACKET_ZERO_CHECKSUM)
		return STOP_dropped_udp_zero_checksum_fragment;
	return GO_ON;
}

static __always_inline enum fragment_fate fate_after(enum verdict stop)
{
	if (!stop)
		return FRAGMENT_TRANSLATE;
	return stop == STOP_passed ? FRAGMENT_PASS : FRAGMENT_DROP;
}

inline_step enum verdict translate_4to6(struct __sk_buff *skb, const struct config *config,
					__u32 slot, struct packet *p)
{
	__u8 *icmp;
	enum verdict stop;

	if (parse_ipv4(skb, p) || !is_translatable(p->protocol))
		return STOP_passed; /* the host handles what is wrong with it */
	if (is_later_fragment(p)) {
		if (!is_pool_address(slot, p->pool))
			return STOP_passed;
		return translate_later_fragment_4to6(skb, config, p);
	}
	if (p->protocol == IPPROTO_ICMP) {
		icmp = header_at(skb, p->l4, sizeof(struct icmphdr));
		if (!icmp || p->length < sizeof(struct icmphdr))
			return STOP_passed;
		p->icmp_type = icmp[0];
		p->icmp_code = icmp[1];
		if (!is_query_v4(p->icmp_type)) {
			if (is_fragment(p))
				return STOP_passed;
			STEP(error_to_ipv6(skb, p));
			mark_slow(p);
			return GO_ON;
		}
	}
	stop = find_ipv4(skb, config, p);
	if (!stop && p->extensions)
		stop = check_options(skb, p);
	if (is_fragment(p) && is_pool_address(slot, p->pool)) {
		remember_fragment(p, fate_after(stop), p->identification);
		STEP(release_fragments(skb, p));
	}
	if (stop)
		return stop;
	STEP(prepare_for_ipv6(skb, config, p));
	STEP(clamp_mss(skb, config, p));
	if (is_fragment(p))
		count(DIR_4TO6, COUNT_fragments_translated);
	return to_ipv6(skb, config, p);
}

static __always_inline bool has_ethernet_header(struct __sk_buff *skb, const struct config *config)
{
	__u32 ifindex = skb->ifindex;
	struct uplink *uplink;

	if (!(config->flags & CONFIG_RAW_UPLINKS))
		return true;
	uplink = bpf_map_lookup_elem(&uplinks, &ifindex);
	return !uplink || uplink->flags & UPLINK_ETHERNET;
}

#define VLAN_ID_MASK 0xfff

/* Whether a frame isn't for this link's own IPv4: it belongs to another VLAN, or it has another
 * host's address. The kernel has removed the tag from the bytes but keeps it beside them, and it
 * would leave with the packet. A tag without a VLAN number only carries a priority (IEEE 802.1Q),
 * so it is removed. */
static __always_inline bool is_for_others(struct __sk_buff *skb)
{
	if (skb->pkt_type == PACKET_OTHERHOST && skb->ifindex != LOOPBACK_IFINDEX)
		return true; /* hairpinned packets come through lo and keep their old address */
	if (!skb->vlan_present)
		return false;
	return skb->vlan_tci & VLAN_ID_MASK || bpf_skb_vlan_pop(skb);
}

static __always_inline enum tc_action ingress(struct __sk_buff *skb)
{
	struct counters *here = counters_here();
	struct packet p = {.direction = DIR_4TO6};
	struct config *config;
	__u32 slot;
	enum verdict stop;

	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_ARP))
		return ACTION_PASS; /* not for this program, and not counted */
	if (!here || is_for_others(skb))
		return ACTION_PASS;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb);
	config = active_config(&slot);
	if (!config || !config->interface)
		return ACTION_PASS;
	p.slot = slot;
	p.l3 = has_ethernet_header(skb, config) ? ETH_HLEN : 0;
	stop = translate_4to6(skb, config, slot, &p);
	if (!stop && ensure_ethernet_header(skb, &p))
		stop = STOP_dropped_internal;
	if (stop != STOP_held && stop != STOP_fragmented)
		here->value[DIR_4TO6][COUNT_received]++;
	if (!stop) {
		struct flow *flow = straight_route(skb, &p);

		here->value[DIR_4TO6][COUNT_translated]++;
		if (flow)
			return enter_pod(skb, flow->ifindex, flow->link, here);
		return send_ipv6(skb, config, &p, here);
	}
	count_stop(here, DIR_4TO6, stop);
	if (stop == STOP_passed)
		return ACTION_PASS;
	if (stop == STOP_fragmented)
		return to_kernel(skb, config);
	if (stop == STOP_dropped_source_route && respond_ipv4(skb, &p) &&
	    !ensure_ethernet_header(skb, &p)) {
		here->value[DIR_4TO6][COUNT_icmp_errors_sent]++;
		return to_kernel(skb, config);
	}
	return ACTION_DROP;
}
