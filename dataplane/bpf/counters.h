/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every packet is counted twice: when it arrives, and by its outcome.
 *
 * translator/datapath/counters.py has the same names in the same order (a test compares them). Per
 * direction, received = translated + passed + all counters that start with dropped_.
 */
#pragma once

#include "abi.h"

/* Things that happen. */
#define EVENT_COUNTERS(X)                                                                          \
	X(none)                                                                                    \
	X(received)                                                                                \
	X(translated)                                                                              \
	X(sent_fast)                                                                               \
	X(sent_kernel)                                                                             \
	X(hairpinned)                                                                              \
	X(icmp_errors_translated)                                                                  \
	X(icmp_errors_sent)                                                                        \
	X(icmp_errors_suppressed)                                                                  \
	X(fragments_translated)                                                                    \
	X(sessions_opened)                                                                         \
	X(sessions_closed)                                                                         \
	X(bindings_opened)                                                                         \
	X(bindings_closed)                                                                         \
	X(port_claims_lost)                                                                        \
	X(ports_lent)                                                                              \
	X(mss_clamped)                                                                             \
	X(ports_given_back)                                                                        \
	X(resets_sent)                                                                             \
	X(resets_suppressed)

/* Ways in which a packet's path through a program ends early: verdict.h makes a verdict of each. */
#define STOP_COUNTERS(X)                                                                           \
	X(passed)                                                                                  \
	X(held)                                                                                    \
	X(fragmented)                                                                              \
	X(dropped_not_configured)                                                                  \
	X(dropped_truncated)                                                                       \
	X(dropped_malformed)                                                                       \
	X(dropped_source_in_prefix)                                                                \
	X(dropped_source_illegal)                                                                  \
	X(dropped_source_denied)                                                                   \
	X(dropped_source_behind_uplink)                                                            \
	X(dropped_source_without_route)                                                            \
	X(dropped_source_wrong_link)                                                               \
	X(dropped_source_not_a_pod)                                                                \
	X(dropped_destination_denied)                                                              \
	X(dropped_destination_not_global)                                                          \
	X(dropped_destination_special)                                                             \
	X(dropped_destination_local)                                                               \
	X(dropped_destination_without_route)                                                       \
	X(dropped_destination_unreachable)                                                         \
	X(dropped_destination_prohibited)                                                          \
	X(dropped_destination_blackhole)                                                           \
	X(dropped_unknown_transport)                                                               \
	X(dropped_routing_header)                                                                  \
	X(dropped_extension_chain)                                                                 \
	X(dropped_extension_after_fragment)                                                        \
	X(dropped_source_route)                                                                    \
	X(dropped_tcp_without_session)                                                             \
	X(dropped_hairpin_without_binding)                                                         \
	X(dropped_filtered)                                                                        \
	X(dropped_ports_exhausted)                                                                 \
	X(dropped_session_table_full)                                                              \
	X(dropped_client_port_limit)                                                               \
	X(dropped_client_port_share)                                                               \
	X(dropped_client_session_limit)                                                            \
	X(dropped_client_session_rate)                                                             \
	X(dropped_inbound_session_limit)                                                           \
	X(dropped_icmp_type)                                                                       \
	X(dropped_icmp_without_session)                                                            \
	X(dropped_icmp_error_in_error)                                                             \
	X(dropped_icmp_inner_malformed)                                                            \
	X(dropped_icmp_ends_differ)                                                                \
	X(dropped_icmp_fragment)                                                                   \
	X(dropped_udp_zero_checksum_fragment)                                                      \
	X(dropped_fragment_unexpected)                                                             \
	X(dropped_fragment_expired)                                                                \
	X(dropped_fragment_buffer_full)                                                            \
	X(dropped_fragmenter_foreign)                                                              \
	X(dropped_too_big)                                                                         \
	X(dropped_internal)

/* Both kinds once more, of the Gateway topology. New names come last: see counters.read in Python.
 */
#define TOPOLOGY_EVENT_COUNTERS(X)                                                                 \
	X(steered)                                                                                 \
	X(returned)                                                                                \
	X(clients_assigned)                                                                        \
	X(probes_sent)                                                                             \
	X(probes_answered)

#define TOPOLOGY_STOP_COUNTERS(X)                                                                  \
	X(dropped_no_gateway)                                                                      \
	X(dropped_gateway_not_on_link)                                                             \
	X(dropped_no_router)                                                                       \
	X(dropped_tunnel_not_member)                                                               \
	X(dropped_tunnel_source_of_another)                                                        \
	X(dropped_tunnel_source)                                                                   \
	X(dropped_tunnel_destination)

#define LATER_EVENT_COUNTERS(X) X(offloaded)

#define COUNTER_NAME(name) COUNT_##name,
enum counter {
	EVENT_COUNTERS(COUNTER_NAME) STOP_COUNTERS(COUNTER_NAME)
		TOPOLOGY_EVENT_COUNTERS(COUNTER_NAME) TOPOLOGY_STOP_COUNTERS(COUNTER_NAME)
			LATER_EVENT_COUNTERS(COUNTER_NAME) COUNTER_COUNT
};
#undef COUNTER_NAME

struct counters {
	__u64 value[DIR_COUNT][COUNTER_COUNT];
};
