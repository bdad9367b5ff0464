/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flow offload on router nodes: packets of known flows are steered where they come in, on the pods'
 * links.
 *
 * As on nodes that translate (see offload.h): a packet that has come through the node's forwarding,
 * to nat64_steer, leaves a note of its flow, with the link that it came in on and the gateway that
 * its client has. Those that follow in the same second, on that link and CPU, go the same way,
 * except those that open a connection. A note ends earlier with a change of config, and when the
 * agent hears of a change of routes or has clients go elsewhere.
 *
 * GSO packets enter the tunnel from here, unlike those that the translator sends (see
 * needs_ip_layer): the pod's IP layer has noted where their transport header begins.
 */
#pragma once

#include "offload.h"
#include "tunnel.h"

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, steered_flows, __u32, struct steered_flow, STEERED_FLOW_SLOTS, 0);

/* Where a packet leaves by. */
struct exit {
	union addr6 gateway;
	__u32 ifindex;
	__u32 direct; /* 1: the gateway is on that link; 0: that is the tunnel's link */
	__u32 routes; /* as they were before this was found */
	__u32 pad;
};

static __always_inline enum tc_action leave(__u32 ifindex, __u32 direct, const union addr6 *gateway)
{
	struct bpf_redir_neigh hop = {.nh_family = AF_INET6};

	if (!direct)
		return bpf_redirect(ifindex, 0);
	__builtin_memcpy(hop.ipv6_nh, gateway, sizeof(hop.ipv6_nh));
	return bpf_redirect_neigh(ifindex, &hop, sizeof(hop), 0);
}

/* The note of the flow of `p`, whose ports are known, or of another one with the same hash. */
static __always_inline struct steered_flow *steered_flow_of(const struct packet *p)
{
	__u32 mixed = p->client.words[2] ^ p->client.words[3] ^ p->remote;
	__u32 slot;

	mixed += p->client_port + ((__u32)p->remote_port << 16);
	slot = (mixed * 0x9e3779b1) >> (32 - STEERED_FLOW_SLOT_BITS);
	return bpf_map_lookup_elem(&steered_flows, &slot);
}

/* Note the way of a packet that has come through the node's forwarding. What the stack has put
 * beside the packet may decide what becomes of it, so such packets leave no note. */
__noinline int note_steered(struct __sk_buff *skb, struct packet *p, const struct exit *exit)
{
	struct steered_flow *note;
	struct config *config;
	__be16 ports[2];

	if (!p || !exit || !skb->ingress_ifindex || skb->mark || skb->priority ||
	    (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) ||
	    bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
		return 0;
	p->client_port = ports[0];
	p->remote_port = ports[1];
	config = config_of(p);
	note = steered_flow_of(p);
	if (!config || !note)
		return 0;
	note->client = p->client;
	note->remote = p->remote6;
	note->gateway = exit->gateway;
	note->client_port = p->client_port;
	note->remote_port = p->remote_port;
	note->protocol = p->protocol;
	note->traffic_class = p->traffic_class;
	note->epoch = config->epoch;
	note->second = now_seconds();
	note->routes = exit->routes;
	note->ingress = skb->ingress_ifindex;
	note->ifindex = exit->ifindex;
	note->direct = exit->direct;
	return 0;
}

/* Whether the note is valid for `p`, which would fit the route to the prefix, too. */
static __always_inline bool is_steered(struct __sk_buff *skb, const struct config *config,
				       const struct packet *p, const struct steered_flow *note)
{
	return note->second == now_seconds() && note->routes == route_changes() &&
	       note->epoch == config->epoch && note->ingress == skb->ifindex &&
	       note->protocol == p->protocol && note->traffic_class == p->traffic_class &&
	       note->client_port == p->client_port && note->remote_port == p->remote_port &&
	       addr6_equal(&note->client, &p->client) && addr6_equal(&note->remote, &p->remote6) &&
	       wire_length(skb, p, sizeof(struct ipv6hdr)) <= config->route_mtu;
}

/* Send the packet as the note says, one hop further. */
static __always_inline enum tc_action steer_again(struct __sk_buff *skb, const struct packet *p,
						  const struct steered_flow *note,
						  struct counters *here)
{
	struct topology *node = topology_here();

	here->value[DIR_6TO4][COUNT_received]++;
	if (!node || (!note->direct && enter_tunnel(skb, node, &note->gateway))) {
		count_stop(here, DIR_6TO4, STOP_dropped_internal);
		return ACTION_DROP;
	}
	write_hop_limit(skb, p, p->ttl);
	here->value[DIR_6TO4][COUNT_steered]++;
	here->value[DIR_6TO4][COUNT_offloaded]++;
	return leave(note->ifindex, note->direct, &note->gateway);
}

static __always_inline enum tc_action steer_offload(struct __sk_buff *skb)
{
	struct packet p = {.direction = DIR_6TO4};
	struct steered_flow *note;
	struct counters *here;
	struct config *config;
	__u32 slot = 0;

	if (!is_plain(skb))
		return ACTION_PASS;
	config = active_config(&slot);
	here = counters_here();
	if (!config || !config->interface || !here || !parse_plain(skb, config, &p) ||
	    p.tcp_flags & TCP_FLAG_SYN_BIT)
		return ACTION_PASS;
	note = steered_flow_of(&p);
	if (!note || !is_steered(skb, config, &p, note))
		return ACTION_PASS;
	return steer_again(skb, &p, note, here);
}
