/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs and translator/datapath/abi.py must agree on: map keys and values.
 *
 * Raise NAT64_ABI when the meaning of any of it changes; a changed size is noticed without that.
 * Addresses and ports are in network order; everything else is in the machine's.
 */
#pragma once

#include "abi_config.h"
#include "abi_state.h"
#include "abi_sweep.h"

#define NAT64_ABI 6
