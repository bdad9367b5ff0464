// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The translator's programs. The included header of the same name has the code of each. */
#include "adopt.h"
#include "arp.h"
#include "egress.h"
#include "ingress.h"
#include "offload.h"
#include "steer.h"
#include "sweep.h"
#include "tunnel.h"

SEC("tc") int nat64_egress(struct __sk_buff *skb)
{
	return egress(skb);
}

SEC("tc") int nat64_ingress(struct __sk_buff *skb)
{
	return ingress(skb);
}

SEC("tc") int nat64_offload(struct __sk_buff *skb)
{
	return offload(skb);
}

/* The Gateway topology: steer and steer_offload are where egress and offload are on other nodes;
 * encap and decap are at the VXLAN device. */
SEC("tc") int nat64_steer(struct __sk_buff *skb)
{
	return steer(skb);
}

SEC("tc") int nat64_steer_offload(struct __sk_buff *skb)
{
	return steer_offload(skb);
}

SEC("tc") int nat64_encap(struct __sk_buff *skb)
{
	return encap(skb);
}

SEC("tc") int nat64_decap(struct __sk_buff *skb)
{
	return decap(skb);
}

/* Not for packets: the agent runs it with BPF_PROG_TEST_RUN. */
SEC("tc") int nat64_sweep(struct __sk_buff *skb)
{
	(void)skb;
	return sweep_once();
}

/* Not for packets either, nor is the next one: see adopt.h and arp.h. */
SEC("tc") int nat64_adopt(struct __sk_buff *skb)
{
	(void)skb;
	return adopt();
}

SEC("tc") int nat64_announce(struct __sk_buff *skb)
{
	return announce(skb);
}

char _license[] SEC("license") = "Dual BSD/GPL";
