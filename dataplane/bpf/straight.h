/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flow offload on the way down: packets of known flows go straight into their pod.
 *
 * The usual way leads out by the pod's link on the node, and from there in by the pod's end of it.
 * bpf_redirect_peer() spares the first half, and with it whatever looks at what leaves by that
 * link: programs, queueing disciplines, nftables. So the agent names the links where nobody does,
 * in `pod_links`, and until when; the time runs out if no agent renews it. Of each flow, the first
 * packet in a second goes the usual way, so that the kernel keeps the pod as a neighbour.
 */
#pragma once

#include "flows.h"

/* Whether flows may go straight into the pod behind a link, whose entry in `pod_links` this is. */
static __always_inline bool leads_straight(const struct packet *p, const __u32 *until)
{
	return p->second < *until;
}

/* Write the Ethernet addresses. */
static __always_inline bool address_frame(struct __sk_buff *skb, const __u8 *addresses)
{
	__u8 *link = header_at(skb, 0, 2 * ETH_ALEN);

	if (link)
		__builtin_memcpy(link, addresses, 2 * ETH_ALEN);
	return link;
}

/* Put the packet into its pod as the pod's link would: with these addresses and without a mark.
 * Only at ingress, as everywhere that flows from IPv4 are recalled: elsewhere the kernel drops it.
 */
static __always_inline enum tc_action enter_pod(struct __sk_buff *skb, __u32 ifindex,
						const __u8 *addresses, struct counters *here)
{
	if (!address_frame(skb, addresses))
		return ACTION_DROP;
	skb->mark = 0;
	here->value[DIR_4TO6][COUNT_sent_fast]++;
	here->value[DIR_4TO6][COUNT_offloaded]++;
	return bpf_redirect_peer(ifindex, 0);
}
