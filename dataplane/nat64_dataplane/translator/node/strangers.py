"""Which links have programs or rules of others for what comes in or goes out.

Flow offload stays off there. It would take packets past them: a CNI's programs, the bandwidth limit
of a pod, nftables at a link's ingress or egress. XDP programs of the node don't matter, as they run
before any of these.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nat64_dataplane.translator.node import bpf_link, nftables_dump, tc_dump, tc_hooks
from nat64_dataplane.translator.node.facts import Link

_NF_NETDEV_EGRESS, _NF_INET_INGRESS = 1, 5
_NFPROTO_NETDEV = 5
_LARGEST_MTU = 65535

Chains = Mapping[tuple[int, int], tuple[int, ...]]
"""The ids of the programs at tcx hooks, by interface index and type of the hook."""


class Busy(NamedTuple):
    """Links, by interface index, where others look at what passes."""

    incoming: frozenset[int]
    outgoing: frozenset[int]


class _Chain(NamedTuple):
    """An nftables chain at links: at their ingress or egress."""

    incoming: bool
    name: str
    """Of a link; empty: any may be meant."""


def busy(links: Collection[Link], pins: Path, chains: Chains) -> Busy:
    """Those of `links` where others look at what comes in, and at what goes out.

    `pins` is where all translators of ours are pinned, `chains` what `tcx_chains` says of `links`.
    Raises OSError.
    """
    if not links:
        return Busy(frozenset(), frozenset())
    indexes = {link.index for link in links}
    by_name = {link.name: {link.index} for link in links}
    incoming: set[int] = set()
    outgoing = indexes & tc_dump.queued() | {link.index for link in links if _has_xdp_inside(link)}
    ours = tc_hooks.programs_of_all(pins) if chains else set()
    for (index, hook), programs in chains.items():
        if not ours.issuperset(programs):
            (incoming if hook == bpf_link.TCX_INGRESS else outgoing).add(index)
    for qdisc in tc_dump.qdiscs():
        if qdisc.ifindex not in indexes:
            continue
        if qdisc.kind != "clsact" or qdisc.shared or _filtered(qdisc, tc_hooks.CLSACT_INGRESS):
            incoming.add(qdisc.ifindex)
        if qdisc.shared_out or _filtered(qdisc, tc_hooks.CLSACT_EGRESS):
            outgoing.add(qdisc.ifindex)
    with contextlib.suppress(OSError):  # without nf_tables there are no chains
        for chain in _nftables_chains():
            where = by_name.get(chain.name, set()) if chain.name else indexes
            (incoming if chain.incoming else outgoing).update(where)
    return Busy(frozenset(incoming), frozenset(outgoing))


def tcx_chains(links: Collection[int]) -> Chains:
    """The programs at the tcx hooks of links, given by interface index. Raises OSError.

    The kernel tells nobody when these change.
    """
    found = {}
    for index in links:
        for hook in (bpf_link.TCX_INGRESS, bpf_link.TCX_EGRESS):
            try:
                programs = bpf_link.tcx_chain(index, hook)
            except OSError as error:
                if error.errno == errno.EINVAL:  # this kernel has no tcx
                    return {}
                if error.errno == errno.ENODEV:  # a link that has just gone
                    continue
                raise
            if programs:
                found[index, hook] = tuple(programs)
    return found


def _filtered(qdisc: tc_dump.Qdisc, parent: int) -> bool:
    return not all(tc_hooks.is_ours(name) for name in tc_dump.filters(qdisc.ifindex, parent))


def _has_xdp_inside(link: Link) -> bool:
    """Whether the pod has an XDP program at its end of the link. The driver then lets no larger
    packets in than fit a page.
    """
    return link.kind == "veth" and 0 < link.max_mtu < _LARGEST_MTU


def _nftables_chains() -> set[_Chain]:
    """All chains at some link's ingress or egress."""
    return {each for chain in nftables_dump.chains() for each in _at_links(chain)}


def _at_links(chain: Any) -> Iterator[_Chain]:
    hook = chain.get("hook")
    if hook is None:
        return
    number = hook.get("NFTA_HOOK_HOOKNUM")
    if chain["nfgen_family"] == _NFPROTO_NETDEV:
        incoming = number != _NF_NETDEV_EGRESS
    elif number == _NF_INET_INGRESS:
        incoming = True
    else:
        return
    if name := hook.get("NFTA_HOOK_DEV"):
        yield _Chain(incoming, name)
    if several := hook.get("NFTA_HOOK_DEVS"):
        for kind, name in several["attrs"]:
            # Since Linux 6.17 there may be the beginning of a name instead.
            yield _Chain(incoming, name if kind == "NFTA_DEVICE_NAME" else "")
