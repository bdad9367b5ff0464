/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv6 to IPv4: what the kernel routes to nat64-NAME. */
#pragma once

#include "icmp_6to4.h"
#include "send.h"
#include "session.h"
#include "translate.h"

inline_step int find_session_of_ipv6(struct __sk_buff *skb, const struct config *config,
				     struct packet *p)
{
	struct session *session = NULL;
	__u32 now = now_seconds();
	struct bib6_key key;
	struct bib6 *binding;

	bib6_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib6, &key);
	if (binding) {
		struct session_key session_key;

		p->pool = binding->pool;
		p->pool_port = binding->pool_port;
		session_key_of(p, &session_key);
		session = bpf_map_lookup_elem(&sessions, &session_key);
		if (session && session->generation == binding->generation && session->expires > now)
			return use_session(skb, config, p, session, now);
	}
	return open_from_ipv6(skb, p);
}

inline_step int translate_6to4(struct __sk_buff *skb, const struct config *config, struct packet *p)
{
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return COUNT_passed;
	STEP(parse_ipv6(skb, p));
	if (!in_pref64(config, &p->remote6))
		return COUNT_passed; /* the link's own neighbour discovery and the like */
	STEP(parse_ipv6_rest(skb, p));
	if (in_pref64(config, &p->client))
		return COUNT_dropped_source_in_prefix; /* RFC 6146 section 3.4 */
	p->remote = pref64_extract(config, &p->remote6);
	if (is_fragment(p))
		return COUNT_dropped_fragment_unexpected;
	STEP(parse_transport(skb, p, &p->client_port, &p->remote_port));
	if (p->protocol == IPPROTO_ICMP) {
		if (p->icmp_type < V6_FIRST_QUERY)
			return error_to_ipv4(skb, p);
		if (p->icmp_type != ICMP_ECHO_REQUEST_V6 && p->icmp_type != ICMP_ECHO_REPLY_V6)
			return COUNT_dropped_icmp_type;
		p->remote_port = 0;
	}
	STEP(find_session_of_ipv6(skb, config, p));
	return to_ipv4(skb, config, p);
}

static __always_inline int egress(struct __sk_buff *skb)
{
	struct counters *here = counters_here();
	struct packet p = {.direction = DIR_6TO4};
	struct config *config;
	__u32 slot;
	int stop;

	if (!here)
		return TC_ACT_SHOT;
	here->value[DIR_6TO4][COUNT_received]++;
	config = active_config(&slot);
	stop = config && config->interface ? translate_6to4(skb, config, &p)
					   : COUNT_dropped_not_configured;
	if (!stop) {
		here->value[DIR_6TO4][COUNT_translated]++;
		return send_ipv4(skb, config, &p, here);
	}
	count_at(here, DIR_6TO4, stop);
	return stop == COUNT_passed ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
