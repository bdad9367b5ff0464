// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The translator's programs. The included header of the same name has the code of each. */
#include "adopt.h"
#include "arp.h"
#include "egress.h"
#include "ingress.h"
#include "sweep.h"

SEC("tc") int nat64_egress(struct __sk_buff *skb)
{
	return egress(skb);
}

SEC("tc") int nat64_ingress(struct __sk_buff *skb)
{
	return ingress(skb);
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
