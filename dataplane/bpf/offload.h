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
 * If the note doesn't say what the packet's session would, because the flow is young, the session
 * is looked up. TCP must be established. SYN always goes through the stack, and so do FIN and RST
 * of the node's own pods; those of router nodes' pods have met the packet filters of that node.
 *
 * Whatever is not plainly such a packet passes to the stack, untouched and uncounted.
 */
#pragma once

#include "send.h"
#include "session_update.h"
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

/* Whether the client is behind a router node. */
static __noinline bool is_behind_router(const struct packet *p)
{
	struct topology *here = topology_here();
	union addr6 client = p->client; /* on the stack: see verifier.h */

	return here && here->role == ROLE_GATEWAY && peer_of(&client);
}

/* Whether `p` belongs to that session and may go on from here, without a question to anybody. */
static __always_inline bool is_open(const struct config *config, const struct packet *p,
				    const struct session *session, __u32 now)
{
	__u8 state = session->life.state & ~TCP_SHUT;

	if (!is_client_of(session, p) || session->life.expires <= now ||
	    session->epoch != config->epoch ||
	    session->flags & (SESSION_OVERLOAD | SESSION_HAIRPIN) ||
	    (session->flags ^ p->session_flags) & SESSION_CLAT ||
	    (p->flags & PACKET_FROM_OUTSIDE && !(session->flags & SESSION_OUTSIDE)))
		return false;
	if (p->protocol != IPPROTO_TCP ||
	    (state == TCP_ESTABLISHED && tcp_event(p->tcp_flags) == TCP_OTHER))
		return true;
	return state >= TCP_ESTABLISHED && is_behind_router(p);
}

/* This and the next function aren't inlined, for the sake of the stack. */
static __noinline struct bib6 *young_binding(const struct packet *p)
{
	struct bib6_key key;

	bib6_key_of(p, &key);
	return bpf_map_lookup_elem(&bib6, &key);
}

static __noinline struct session *young_session(const struct packet *p)
{
	struct session_key key;

	session_key_of(p, &key);
	return bpf_map_lookup_elem(&sessions, &key);
}

/* Let a packet of a young flow, whose route is noted, update its session as nat64_egress would.
 * STOP_passed: the stack must have it, and nothing has changed. */
__noinline enum verdict use_young(struct __sk_buff *skb, struct packet *p)
{
	struct session *session;
	struct config *config;
	struct bib6 *binding;
	struct flow *flow;
	__u32 now;

	REQUIRE(p, STOP_passed);
	config = config_of(p);
	if (!config)
		return STOP_passed;
	now = now_seconds();
	p->zone = config->zone;
	if (config->flags & CONFIG_ZONES)
		find_zone(p);
	binding = young_binding(p);
	if (!binding)
		return STOP_passed;
	use_bib6(binding, p);
	flow = flow_at(p);
	if (!flow || !is_of_pool(flow, p))
		return STOP_passed;
	session = young_session(p);
	if (!session || !is_open(config, p, session, now))
		return STOP_passed;
	STEP(use_session(skb, config, p, session, now));
	if (p->flags & PACKET_STEADY)
		note_recent(p, config, binding, session);
	note_session(flow, p);
	return GO_ON;
}

/* Find out whether `p` may go on from here, and by which note. STOP_passed: it may not. */
static __always_inline enum verdict find_offloaded(struct __sk_buff *skb,
						   const struct config *config, struct packet *p,
						   struct flow **found)
{
	struct flow *flow;

	note_where_from(skb, config, p);
	recall_flow(p, config, seconds_by_tick());
	if (!(p->flags & PACKET_ROUTED) || has_syn(p->tcp_flags))
		return STOP_passed;
	flow = flow_at(p);
	if (!flow || flow->ingress != skb->ifindex || !fits(skb, config, p, flow))
		return STOP_passed;
	*found = flow;
	return p->flags & PACKET_RECALLED ? GO_ON : use_young(skb, p);
}

/* Translate `p`, which has been read, if it is of a known flow. */
static __always_inline enum tc_action offload_known(struct __sk_buff *skb,
						    const struct config *config, struct packet *p,
						    struct counters *here)
{
	struct flow *flow = NULL;
	enum verdict stop = find_offloaded(skb, config, p, &flow);

	if (stop == STOP_passed || !flow)
		return ACTION_PASS;
	here->value[DIR_6TO4][COUNT_received]++;
	if (!stop)
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
	p.slot = slot;
	if (!config || !config->interface || !here || !parse_plain(skb, config, &p))
		return ACTION_PASS;
	return offload_known(skb, config, &p, here);
}
