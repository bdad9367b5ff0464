/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv4 addresses inside IPv6 addresses (RFC 6052 section 2.2). Only this header knows their format.
 */
#pragma once

#include "basics.h"

static __always_inline bool in_pref64(const struct config *config, const union addr6 *address)
{
	return (bpf_be64_to_cpu(address->halves[0]) & config->mask_high) == config->prefix_high &&
	       (bpf_be64_to_cpu(address->halves[1]) & config->mask_low) == config->prefix_low;
}

/* Whether the address is under the prefix that only the pods' CLAT uses. */
static __always_inline bool in_clat_prefix(const struct config *config, const union addr6 *address)
{
	return config->flags & CONFIG_CLAT &&
	       bpf_be64_to_cpu(address->halves[0]) == config->clat_high &&
	       (bpf_be64_to_cpu(address->halves[1]) & ~0xffffffffULL) == config->clat_low;
}

/* The suffix and bits 64-71 (the u-octet) are ignored. With the u-octet removed, the IPv4 address
 * is the 32 bits at `shift` = 96 - prefix length. A /96 has the u-octet inside its prefix. */
static __always_inline __be32 pref64_extract(const struct config *config,
					     const union addr6 *address)
{
	__u64 high = bpf_be64_to_cpu(address->halves[0]);
	__u64 low = bpf_be64_to_cpu(address->halves[1]);
	__u32 shift = config->prefix_shift;

	if (shift == 0)
		return address->words[3];
	low <<= 8;
	if (shift >= 64)
		return bpf_htonl((__u32)high);
	return bpf_htonl((__u32)(high << (64 - shift) | low >> shift));
}

static __always_inline void pref64_embed(const struct config *config, __be32 address,
					 union addr6 *to)
{
	__u64 high = config->prefix_high, low = config->prefix_low;
	__u64 value = bpf_ntohl(address);
	__u32 shift = config->prefix_shift;

	if (shift == 0) {
		low |= value;
	} else if (shift >= 64) {
		high |= value;
	} else {
		high |= value >> (64 - shift);
		low |= value << shift >> 8;
	}
	to->halves[0] = bpf_cpu_to_be64(high);
	to->halves[1] = bpf_cpu_to_be64(low);
}

/* Set p->remote from p->remote6, and SESSION_CLAT if that is under the CLAT prefix. False if it is
 * under neither prefix. */
static __always_inline bool remote_from_ipv6(const struct config *config, struct packet *p)
{
	if (in_pref64(config, &p->remote6)) {
		p->remote = pref64_extract(config, &p->remote6);
		return true;
	}
	if (!in_clat_prefix(config, &p->remote6))
		return false;
	p->remote = p->remote6.words[3];
	p->session_flags |= SESSION_CLAT;
	return true;
}

/* Write the address that stands for `address` under the prefix of the session with these flags. A
 * session may have outlived the CLAT prefix. */
static __always_inline void embed_for_session(const struct config *config, __u8 session_flags,
					      __be32 address, union addr6 *to)
{
	if (!(session_flags & SESSION_CLAT) || !(config->flags & CONFIG_CLAT)) {
		pref64_embed(config, address, to);
		return;
	}
	to->halves[0] = bpf_cpu_to_be64(config->clat_high);
	to->halves[1] = bpf_cpu_to_be64(config->clat_low | bpf_ntohl(address));
}
