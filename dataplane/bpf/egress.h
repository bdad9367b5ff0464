/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv6 to IPv4: packets that the kernel routes to nat64-NAME. */
#pragma once

#include "held_fragments.h"
#include "icmp_6to4.h"
#include "mss.h"
#include "open.h"
#include "probe.h"
#include "refragment.h"
#include "respond_tcp.h"
#include "send.h"
#include "session_update.h"
#include "translate.h"

/* Whether a policy rule may route the packet differently because of its mark. */
static __always_inline bool is_marked(struct __sk_buff *skb, const struct config *config)
{
	__u32 mark = skb->mark, i;

#pragma unroll
	for (i = 0; i < MAX_MARKS; i++) {
		const struct mark *rule = &config->marks[i];

		if (i < config->marks_used && ((mark & rule->mask) == rule->value) != !rule->value)
			return true;
	}
	return false;
}

static __always_inline struct session *overloaded_session(struct packet *p, __u32 now)
{
	struct session_key key;
	struct session *session;

	if (!find_overloaded(p))
		return NULL;
	session_key_of(p, &key);
	session = bpf_map_lookup_elem(&sessions, &key);
	return session && is_client_of(session, p) && session->life.expires > now ? session : NULL;
}

inline_step enum verdict find_session_of_ipv6(struct __sk_buff *skb, const struct config *config,
					      struct packet *p)
{
	struct session *session = NULL;
	struct bib6_key key;
	struct bib6 *binding;
	__u32 now;

	if (recall_flow(p, config, seconds_by_tick()))
		return GO_ON;
	now = p->second = now_seconds();
	if (config->flags & CONFIG_ZONES)
		find_zone(p);
	bib6_key_of(p, &key);
	binding = bpf_map_lookup_elem(&bib6, &key);
	if (binding) {
		struct session_key session_key;

		use_bib6(binding, p);
		if (p->pool && recall_recent(p, config, binding, now))
			return GO_ON;
		session_key_of(p, &session_key);
		session = bpf_map_lookup_elem(&sessions, &session_key);
		if (session && is_client_of(session, p) && session->life.expires > now &&
		    !(session->flags & SESSION_OVERLOAD)) {
			STEP(use_session(skb, config, p, session, now));
			if (p->flags & PACKET_STEADY)
				note_recent(p, config, binding, session);
			return GO_ON;
		}
	}
	if (config->flags & CONFIG_OVERLOAD_TCP && p->protocol == IPPROTO_TCP) {
		session = overloaded_session(p, now);
		if (session)
			return use_session(skb, config, p, session, now);
	}
	return open_from_ipv6(skb, p);
}

/* A later fragment has no ports: the first fragment decides what happens to it. */
inline_step enum verdict
translate_later_fragment_6to4(struct __sk_buff *skb, const struct config *config, struct packet *p)
{
	STEP(later_fragment(skb, p));
	count(DIR_6TO4, COUNT_fragments_translated);
	return header_to_ipv4(skb, config, p);
}

inline_step enum verdict translate_6to4(struct __sk_buff *skb, const struct config *config,
					struct packet *p)
{
	enum verdict stop;

	STEP(parse_ipv6(skb, p));
	if (!remote_from_ipv6(config, p))
		return STOP_passed; /* for example the link's own neighbour discovery */
	if (in_pref64(config, &p->client) || in_clat_prefix(config, &p->client))
		return STOP_dropped_source_in_prefix; /* RFC 6146 section 3.4 */
	STEP(parse_ipv6_rest(skb, p));
	note_where_from(skb, config, p);
	if (is_fragment(p) && p->protocol == IPPROTO_ICMP)
		return STOP_dropped_icmp_fragment;
	if (is_later_fragment(p))
		return translate_later_fragment_6to4(skb, config, p);
	stop = parse_transport(skb, p, &p->client_port, &p->remote_port);
	if (stop)
		return is_fragment(p) && stop == STOP_dropped_truncated
			       ? STOP_dropped_fragment_unexpected
			       : stop;
	if (p->protocol == IPPROTO_ICMP) {
		if (p->icmp_type < V6_FIRST_QUERY)
			return error_to_ipv4(skb, p);
		if (!is_query_v6(p->icmp_type))
			return STOP_dropped_icmp_type;
		p->remote_port = 0;
	}
	stop = find_session_of_ipv6(skb, config, p);
	if (is_fragment(p)) {
		remember_fragment(p, stop ? FRAGMENT_DROP : FRAGMENT_TRANSLATE, 0);
		STEP(release_fragments(skb, p));
		if (!stop)
			count(DIR_6TO4, COUNT_fragments_translated);
	}
	if (stop)
		return stop;
	STEP(clamp_mss(skb, config, p));
	return to_ipv4(skb, config, p);
}

/* IPv4 packets at this hook: see refragment.h. */
static __always_inline enum tc_action egress_ipv4(struct __sk_buff *skb,
						  const struct config *config, struct packet *p,
						  struct counters *here)
{
	enum verdict stop;

	p->direction = DIR_4TO6;
	stop = translate_refragmented(skb, p);
	if (stop == STOP_passed)
		return ACTION_PASS; /* nobody sent us this packet: it isn't counted */
	here->value[DIR_4TO6][COUNT_received]++;
	if (stop) {
		count_stop(here, DIR_4TO6, stop);
		return ACTION_DROP;
	}
	here->value[DIR_4TO6][COUNT_translated]++;
	here->value[DIR_4TO6][COUNT_fragments_translated]++;
	return send_ipv6(skb, config, p, here);
}

static __always_inline enum tc_action egress(struct __sk_buff *skb)
{
	struct counters *here = counters_here();
	struct packet p = {.direction = DIR_6TO4};
	struct config *config;
	__u32 slot = 0;
	enum verdict stop;

	if (!here)
		return ACTION_DROP;
	config = active_config(&slot);
	p.slot = slot;
	if (config && config->interface) {
		p.zone = p.way = config->zone;
		if (skb->mark && config->marks_used && is_marked(skb, config))
			p.flags |= PACKET_MARKED;
		if (skb->protocol == bpf_htons(ETH_P_IP))
			return egress_ipv4(skb, config, &p, here);
		stop = skb->protocol == bpf_htons(ETH_P_IPV6) ? translate_6to4(skb, config, &p)
							      : STOP_passed;
	} else {
		stop = STOP_dropped_not_configured;
	}
	if (stop != STOP_held)
		here->value[DIR_6TO4][COUNT_received]++;
	if (!stop) {
		here->value[DIR_6TO4][COUNT_translated]++;
		return send_ipv4(skb, config, &p, here);
	}
	if (config && is_probe(&p) && answer_probe(skb, &p)) {
		here->value[DIR_6TO4][COUNT_probes_answered]++;
		return send_answer(skb, config);
	}
	count_stop(here, DIR_6TO4, stop);
	if (stop == STOP_passed)
		return ACTION_PASS;
	/* no reset for a source that the policy denies: it may be forged */
	if (config && stop == STOP_dropped_tcp_without_session && !check_policy(skb, &p) &&
	    respond_reset(skb, &p)) {
		here->value[DIR_6TO4][COUNT_resets_sent]++;
		return to_kernel(skb, config);
	}
	if (config && respond_ipv6(skb, &p, stop)) {
		here->value[DIR_6TO4][COUNT_icmp_errors_sent]++;
		return to_kernel(skb, config);
	}
	return ACTION_DROP;
}
