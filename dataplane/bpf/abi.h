/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Keys and values of the maps, as translator/datapath/abi.py has them too.
 *
 * Raise NAT64_ABI when the meaning of a field changes; a changed size is noticed without that.
 * Addresses and ports are in network byte order; everything else is in the machine's.
 */
#pragma once

#include "abi_config.h"
#include "abi_state.h"
#include "abi_sweep.h"

#define NAT64_ABI 7
