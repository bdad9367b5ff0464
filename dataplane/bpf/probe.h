/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Router nodes ask gateway nodes whether they serve. The question is a UDP packet to 192.0.0.8 (the
 * IPv4 dummy address, RFC 7600) under the prefix. It takes the way of all packets up to the
 * policy, which refuses that address; the answer takes the way of all replies. */
#pragma once

#include "send.h"
#include "topology.h"

#define PROBE_ADDRESS 0xc0000008U
#define PROBE_PORT    8464
#define PROBE_MAGIC   0x6e363470U /* n64p */
#define PROBE_VERSION 1
#define PROBE_HOPS    64

/* The payload, both ways. */
struct probe {
	__be32 magic;
	__u8 version;
	__u8 state;   /* enum probe_state */
	__u8 gateway; /* its number on the router node that asks */
	__u8 pad;
	__be64 nonce; /* the asker's */
};

static __always_inline bool is_to_probe_address(const struct packet *p)
{
	return p->remote == bpf_htonl(PROBE_ADDRESS) && !(p->session_flags & SESSION_CLAT);
}

static __always_inline bool is_probe(const struct packet *p)
{
	return is_to_probe_address(p) && p->protocol == IPPROTO_UDP &&
	       p->remote_port == bpf_htons(PROBE_PORT);
}

/* What this node answers. An agent that is gone for a while changes nothing. */
static __always_inline enum probe_state serving_state(void)
{
	__u32 zero = 0;
	struct serving *said = bpf_map_lookup_elem(&serving, &zero);

	/* signed: the agent's clock is a tick ahead of ours */
	if (!said || (__s32)(now_seconds() - said->second) > SERVING_SECONDS)
		return PROBE_NOT_SERVING;
	if (said->state == PROBE_SERVING || said->state == PROBE_DRAINING)
		return said->state;
	return PROBE_NOT_SERVING;
}

/* Whether a packet without the tunnel has come in on the link by which this node would send to its
 * source. The route is not that of replies, which may be the tunnel. */
__noinline int came_by_own_link(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_fib_lookup route = {.family = AF_INET6};
	long found;

	if (!p)
		return 0;
	route.ifindex = skb->ingress_ifindex;
	__builtin_memcpy(route.ipv6_src, &p->remote6, sizeof(p->remote6));
	__builtin_memcpy(route.ipv6_dst, &p->client, sizeof(p->client));
	found = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	return (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH) &&
	       route.ifindex == skb->ingress_ifindex;
}

/* Whether the packet is from a router node itself, by either transport. Notes which one. */
static __always_inline bool is_from_router(struct __sk_buff *skb, struct packet *p)
{
	struct topology *here = topology_here();
	struct peer *node;

	if (!here || here->role != ROLE_GATEWAY)
		return false;
	node = peer_of(&p->client);
	if (!node || !addr6_equal(&node->node, &p->client))
		return false;
	if (came_through_tunnel(skb, here))
		return true;
	if (!came_by_own_link(skb, p))
		return false;
	node->link = skb->ingress_ifindex;
	node->second = now_seconds();
	return true;
}

/* Where the answer to a probe goes: the way of all replies. A router node that uses the tunnel
 * takes answers from there only, so it gets them there from a gateway node that doesn't. */
static __always_inline enum tc_action send_answer(struct __sk_buff *skb,
						  const struct config *config)
{
	struct topology *here = topology_here();

	if (here && here->direct && came_through_tunnel(skb, here))
		return bpf_redirect(here->tunnel, 0);
	return to_kernel(skb, config);
}

/* Turn a probe into its answer. Returns 0 if the packet is no probe of a router node. */
__noinline int answer_probe(struct __sk_buff *skb, struct packet *p)
{
	struct {
		union addr6 source, destination;
		struct udphdr udp;
		struct probe probe;
	} all;
	__u32 at, udp;
	__u8 hops = PROBE_HOPS, state;
	__be16 port, was, becomes;

	if (!p || !is_from_router(skb, p))
		return 0;
	at = ETH_HLEN + offsetof(struct ipv6hdr, saddr);
	udp = ETH_HLEN + sizeof(struct ipv6hdr);
	if (p->l4 != udp || p->length != sizeof(all.udp) + sizeof(all.probe) ||
	    bpf_skb_load_bytes(skb, at, &all, sizeof(all)))
		return 0;
	if (all.probe.magic != bpf_htonl(PROBE_MAGIC) || all.probe.version != PROBE_VERSION ||
	    all.probe.state != PROBE_QUESTION)
		return 0;
	/* Swapping the ends leaves the checksum as it is. */
	__builtin_memcpy(&all.source, &p->remote6, sizeof(all.source));
	__builtin_memcpy(&all.destination, &p->client, sizeof(all.destination));
	port = all.udp.source;
	all.udp.source = all.udp.dest;
	all.udp.dest = port;
	if (bpf_skb_store_bytes(skb, at, &all, offsetof(typeof(all), udp.len),
				BPF_F_RECOMPUTE_CSUM))
		return 0;
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &hops,
			    sizeof(hops), BPF_F_RECOMPUTE_CSUM);
	state = serving_state();
	was = bpf_htons(PROBE_VERSION << 8 | PROBE_QUESTION);
	becomes = bpf_htons(PROBE_VERSION << 8 | state);
	if (bpf_l4_csum_replace(skb, udp + offsetof(struct udphdr, check), was, becomes,
				BPF_F_MARK_MANGLED_0 | sizeof(becomes)))
		return 0;
	return !bpf_skb_store_bytes(skb,
				    udp + sizeof(struct udphdr) + offsetof(struct probe, version),
				    &becomes, sizeof(becomes), 0);
}
