/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv4 to IPv6: what arrives on an uplink, or on lo, for one of our mappings. All else passes. */
#pragma once

#include "icmp_4to6.h"
#include "send.h"
#include "session.h"
#include "translate.h"

inline_step int find_session_of_ipv4(struct __sk_buff *skb, const struct config *config,
				     struct packet *p)
{
	__u32 now = now_seconds();
	struct session_key key;
	struct session *session;

	session_key_of(p, &key);
	session = bpf_map_lookup_elem(&sessions, &key);
	if (session && session->expires > now && !(session->flags & SESSION_CONTACT)) {
		p->client = session->client;
		p->client_port = session->client_port;
		return use_session(skb, config, p, session, now);
	}
	return open_from_ipv4(skb, p);
}

/* No mapping has a port outside these: most of a node's own traffic ends here. */
static __always_inline bool may_be_ours(const struct config *config, const struct packet *p)
{
	__u16 port = bpf_ntohs(p->pool_port);

	return port >= config->lowest_port && port <= config->highest_port;
}

static __always_inline int mark_slow(struct packet *p)
{
	if (p->ttl <= 1)
		p->flags |= PACKET_SLOW; /* the kernel says "time exceeded" */
	return GO_ON;
}

inline_step int translate_4to6(struct __sk_buff *skb, const struct config *config, struct packet *p)
{
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return COUNT_passed;
	p->l3 = ETH_HLEN;
	if (parse_ipv4(skb, p))
		return COUNT_passed; /* the host counts what is wrong with it */
	if (is_fragment(p))
		return COUNT_passed;
	if (parse_transport(skb, p, &p->remote_port, &p->pool_port))
		return COUNT_passed;
	if (p->protocol == IPPROTO_ICMP) {
		if (p->icmp_type != ICMP_ECHO_REQUEST_V4 && p->icmp_type != ICMP_ECHO_REPLY_V4) {
			STEP(error_to_ipv6(skb, p));
			return mark_slow(p);
		}
		p->remote_port = 0;
	}
	if (!may_be_ours(config, p))
		return COUNT_passed;
	STEP(find_session_of_ipv4(skb, config, p));
	pref64_embed(config, p->remote, &p->remote6);
	mark_slow(p);
	return to_ipv6(skb, config, p);
}

static __always_inline int ingress(struct __sk_buff *skb)
{
	struct counters *here = counters_here();
	struct packet p = {.direction = DIR_4TO6};
	struct config *config;
	__u32 slot;
	int stop;

	if (!here)
		return TC_ACT_UNSPEC;
	here->value[DIR_4TO6][COUNT_received]++;
	config = active_config(&slot);
	stop = config && config->interface ? translate_4to6(skb, config, &p) : COUNT_passed;
	if (!stop) {
		here->value[DIR_4TO6][COUNT_translated]++;
		return send_ipv6(skb, config, &p, here);
	}
	count_at(here, DIR_4TO6, stop);
	return stop == COUNT_passed ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
