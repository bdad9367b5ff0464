/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ARP replies for pool addresses that the node claims and that no link has (RFC 826).
 *
 * The kernel answers for such an address because of its route, unless arp_ignore is set, as
 * kube-proxy's strictARP does: then it answers only for addresses that the link itself has. So the
 * program answers these requests itself, whatever the node's settings are.
 */
#pragma once

#include <linux/if_ether.h>

#include "maps.h"
#include "verdict.h"

/* RFC 826, in host order; <linux/if_arp.h> needs the C library's headers. */
#define ARP_ETHERNET 1
#define ARP_REQUEST  1
#define ARP_REPLY    2

struct arp_packet {
	__u8 to[ETH_ALEN], from[ETH_ALEN];
	__be16 type;
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

static __always_inline bool is_arp_request(const struct arp_packet *p)
{
	return p->hardware == bpf_htons(ARP_ETHERNET) && p->protocol == bpf_htons(ETH_P_IP) &&
	       p->hardware_length == ETH_ALEN && p->protocol_length == 4 &&
	       p->operation == bpf_htons(ARP_REQUEST);
}

/* Turn a request into its reply and send it back. Everything else goes to the kernel, including an
 * announcement from another host that has the same address. */
static __always_inline enum tc_action answer_arp(struct __sk_buff *skb)
{
	struct arp_packet p;
	struct arp_key key = {.ifindex = skb->ifindex};
	struct arp_answer *answer;

	if (skb->vlan_present || bpf_skb_load_bytes(skb, 0, &p, sizeof(p)) || !is_arp_request(&p))
		return ACTION_PASS;
	key.address = p.target;
	answer = bpf_map_lookup_elem(&arp_answers, &key);
	if (!answer || p.sender == p.target)
		return ACTION_PASS;
	__builtin_memcpy(p.to, p.sender_mac, ETH_ALEN);
	__builtin_memcpy(p.from, answer->mac, ETH_ALEN);
	p.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(p.target_mac, p.sender_mac, ETH_ALEN);
	__builtin_memcpy(p.sender_mac, answer->mac, ETH_ALEN);
	p.target = p.sender;
	p.sender = key.address;
	if (bpf_skb_store_bytes(skb, 0, &p, sizeof(p), 0))
		return ACTION_DROP;
	return bpf_redirect(skb->ifindex, 0);
}

/* Send the packet that the agent has built over the link that it names: an announcement (RFC 5227
 * section 3). The agent itself may not open packet sockets. */
static __always_inline enum tc_action announce(struct __sk_buff *skb)
{
	bpf_clone_redirect(skb, skb->ifindex, 0);
	return ACTION_DROP;
}
