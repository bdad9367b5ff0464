/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Router nodes: packets that the kernel routes to nat64-NAME go to a gateway node.
 *
 * A client has one gateway node for all that it sends, because its bindings are there. The table
 * gives one to a new client, by hash of its address; the client then keeps it for as long as it
 * lives, even if the table changes.
 */
#pragma once

#include "probe.h"
#include "respond.h"
#include "steer_offload.h"
#include "tunnel.h"

/* The place of a client in the table. The finalizer of MurmurHash3 (public domain): each bit of the
 * address changes all bits. Python has the same function. */
static __always_inline __u32 place_of(const union addr6 *client)
{
	__u32 mixed = 0;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		mixed = (mixed ^ bpf_ntohl(client->words[i])) * 0x9e3779b1;
		mixed ^= mixed >> 16;
	}
	mixed *= 0x85ebca6b;
	mixed ^= mixed >> 13;
	mixed *= 0xc2b2ae35;
	return index_below(mixed ^ mixed >> 16, STEERING_PLACES);
}

static __always_inline struct steering *steering_of(const struct topology *here)
{
	__u32 slot = index_below(here->active, STEERING_SLOTS);

	return bpf_map_lookup_elem(&steering, &slot);
}

/* The gateway of that number; NULL if there is none. */
static __always_inline struct gateway *gateway_at(struct steering *steering, __u32 number)
{
	struct gateway *gateway;

	if (number >= MAX_GATEWAYS)
		return NULL;
	gateway = &steering->gateways[index_below(number, MAX_GATEWAYS)];
	return gateway->identity ? gateway : NULL;
}

/* The gateway that the client has, if it is alive. */
static __always_inline struct gateway *gateway_of_client(const struct config *config,
							 struct steering *steering,
							 const union addr6 *client, __u32 now)
{
	struct affinity *affinity = bpf_map_lookup_elem(&affinities, client);
	struct gateway *gateway;

	/* signed: another CPU may have written a later second than ours */
	if (!affinity ||
	    (__s32)(now - affinity->second) > (__s32)config->timeout[TIMER_TCP_ESTABLISHED])
		return NULL;
	gateway = gateway_at(steering, affinity->gateway);
	if (!gateway || gateway->identity != affinity->identity || gateway->state == GATEWAY_DEAD)
		return NULL;
	if ((__s32)(now - affinity->second) >= AFFINITY_WRITES)
		affinity->second = now;
	return gateway;
}

/* The gateway for packets of `client`. With `assign`, it remembers which one it gets. */
static __always_inline struct gateway *choose_gateway(const struct config *config,
						      const struct topology *here,
						      const union addr6 *client, bool assign)
{
	struct steering *steering = steering_of(here);
	struct affinity fresh = {.second = now_seconds()};
	union addr6 key = *client; /* on the stack: see verifier.h */
	struct gateway *gateway;

	if (!steering)
		return NULL;
	gateway = gateway_of_client(config, steering, &key, fresh.second);
	if (gateway)
		return gateway;
	fresh.gateway = steering->table[place_of(&key)];
	gateway = gateway_at(steering, fresh.gateway);
	if (!gateway || gateway->state == GATEWAY_DEAD)
		return NULL;
	fresh.identity = gateway->identity;
	if (assign && !bpf_map_update_elem(&affinities, &key, &fresh, BPF_ANY))
		count(DIR_6TO4, COUNT_clients_assigned);
	return gateway;
}

/* An ICMPv6 error goes to the gateway of the client that the packet in it was for. The error itself
 * may be from any node on the way there. Returns false for all other packets. */
static __always_inline bool client_of_error(struct __sk_buff *skb, const struct packet *p,
					    union addr6 *client)
{
	__u8 type;

	return p->protocol == IPPROTO_ICMPV6 &&
	       !bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)) && type < V6_FIRST_QUERY &&
	       !bpf_skb_load_bytes(skb, p->l4 + ICMP_HEADER + offsetof(struct ipv6hdr, daddr),
				   client, sizeof(*client));
}

/* Take the kernel's route, which is to nat64-NAME, off the packet. A neighbour that has no
 * link-layer address yet keeps the packet, and would then send it by that route. Only helpers that
 * give it another route do this; a link ignores the one of a tunnel. */
static __always_inline long forget_route(struct __sk_buff *skb)
{
	struct bpf_tunnel_key none = {};

	return bpf_skb_set_tunnel_key(skb, &none, sizeof(none), BPF_F_TUNINFO_IPV6);
}

/* Find the link on which the gateway is a neighbour. */
inline_step enum verdict find_on_link(struct __sk_buff *skb, const struct config *config,
				      const struct topology *here, const struct gateway *gateway,
				      struct exit *exit)
{
	struct bpf_fib_lookup route = {.family = AF_INET6, .ifindex = config->interface};
	union addr6 hop;
	long found;

	__builtin_memcpy(route.ipv6_src, &here->node, sizeof(route.ipv6_src));
	__builtin_memcpy(route.ipv6_dst, &gateway->address, sizeof(route.ipv6_dst));
	found = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return STOP_dropped_gateway_not_on_link;
	__builtin_memcpy(&hop, route.ipv6_dst, sizeof(hop));
	if (!addr6_equal(&hop, &gateway->address))
		return STOP_dropped_gateway_not_on_link; /* behind another hop */
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH && forget_route(skb))
		return STOP_dropped_internal;
	exit->ifindex = route.ifindex;
	exit->direct = 1;
	return GO_ON;
}

inline_step enum verdict send_to_gateway(struct __sk_buff *skb, const struct config *config,
					 const struct topology *here, const struct gateway *gateway,
					 struct exit *exit)
{
	exit->gateway = gateway->address;
	if (here->direct)
		return find_on_link(skb, config, here, gateway, exit);
	if (!here->tunnel)
		return STOP_dropped_not_configured;
	exit->ifindex = here->tunnel;
	return enter_tunnel(skb, here, &gateway->address);
}

/* The agent's own question, to the gateway whose number is in it. */
inline_step enum verdict steer_probe(struct __sk_buff *skb, const struct config *config,
				     const struct topology *here, const struct packet *p,
				     struct exit *exit)
{
	struct steering *steering = steering_of(here);
	struct gateway *gateway;
	struct probe probe;

	if (p->protocol != IPPROTO_UDP || p->length != sizeof(struct udphdr) + sizeof(probe) ||
	    bpf_skb_load_bytes(skb, p->l4 + sizeof(struct udphdr), &probe, sizeof(probe)) ||
	    probe.magic != bpf_htonl(PROBE_MAGIC))
		return STOP_dropped_destination_special;
	gateway = steering ? gateway_at(steering, probe.gateway) : NULL;
	if (!gateway)
		return STOP_dropped_no_gateway;
	STEP(send_to_gateway(skb, config, here, gateway, exit));
	count(DIR_6TO4, COUNT_probes_sent);
	return GO_ON;
}

/* Check the source of `p` as on a node that translates. */
__noinline enum verdict check_sender(struct __sk_buff *skb, struct packet *p)
{
	struct config *config;

	REQUIRE(p, STOP_dropped_internal);
	config = config_of(p);
	if (!config)
		return STOP_dropped_not_configured;
	note_where_from(skb, config, p);
	return check_source(skb, config, index_below(p->slot, CONFIG_SLOTS), p);
}

inline_step enum verdict steer_packet(struct __sk_buff *skb, const struct config *config,
				      struct packet *p, struct exit *exit)
{
	struct topology *here = topology_here();
	struct gateway *gateway;
	union addr6 client;

	if (!here || here->role != ROLE_ROUTER)
		return STOP_dropped_not_configured;
	STEP(parse_ipv6(skb, p));
	if (!remote_from_ipv6(config, p))
		return STOP_passed; /* for example the link's own neighbour discovery */
	if (!skb->ingress_ifindex && is_to_probe_address(p))
		return steer_probe(skb, config, here, p, exit);
	if (in_pref64(config, &p->client) || in_clat_prefix(config, &p->client))
		return STOP_dropped_source_in_prefix;
	if (source6_is_illegal(&p->client))
		return STOP_dropped_source_illegal;
	STEP(check_sender(skb, p));
	exit->routes = route_changes(); /* before what is noted with them */
	gateway = client_of_error(skb, p, &client) ? choose_gateway(config, here, &client, false)
						   : choose_gateway(config, here, &p->client, true);
	if (!gateway)
		return STOP_dropped_no_gateway;
	STEP(send_to_gateway(skb, config, here, gateway, exit));
	note_steered(skb, p, exit);
	count(DIR_6TO4, COUNT_steered);
	return GO_ON;
}

/* Whether the sender may be told that there is no gateway: not about an error (RFC 4443 section 2.4
 * (e)). Reads the chain of headers, which the answer quotes. */
static __always_inline bool may_be_answered(struct __sk_buff *skb, struct packet *p)
{
	__u8 type;

	if (parse_ipv6_rest(skb, p))
		return false;
	return p->protocol != IPPROTO_ICMP ||
	       (!is_later_fragment(p) && !bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)) &&
		type >= V6_FIRST_QUERY);
}

static __always_inline enum tc_action steer(struct __sk_buff *skb)
{
	struct counters *here = counters_here();
	struct packet p = {.direction = DIR_6TO4};
	struct exit exit = {};
	struct config *config;
	__u32 slot = 0;
	enum verdict stop = STOP_dropped_not_configured;

	if (!here)
		return ACTION_DROP;
	config = active_config(&slot);
	p.slot = slot;
	if (config && config->interface)
		stop = skb->protocol == bpf_htons(ETH_P_IPV6) ? steer_packet(skb, config, &p, &exit)
							      : STOP_passed;
	here->value[DIR_6TO4][COUNT_received]++;
	if (!stop)
		return leave(exit.ifindex, exit.direct, &exit.gateway);
	count_stop(here, DIR_6TO4, stop);
	if (stop == STOP_passed)
		return ACTION_PASS;
	if (config && stop == STOP_dropped_no_gateway && may_be_answered(skb, &p) &&
	    respond_ipv6(skb, &p, stop)) {
		here->value[DIR_6TO4][COUNT_icmp_errors_sent]++;
		return to_kernel(skb, config);
	}
	return ACTION_DROP;
}
