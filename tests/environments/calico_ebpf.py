"""Calico's eBPF data plane: felix in kube-proxy's place, with programs of its release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import binaries
from tests.cluster.node import CGROUP
from tests.cluster.paths import CACHE
from tests.cluster.run import locked, run
from tests.environments.calico import Calico, object_of

if TYPE_CHECKING:
    from tests.cluster.cluster import Cluster
    from tests.cluster.node import Node

_OBJECTS = "/usr/lib/calico/bpf"
_CGROUPS = "/run/calico/cgroup"
# What felix never asks for as it is set up here: legacy kernels, logging, dropping what is for
# the node, direct return.
_UNUSED = ("debug", "info", "host_drop", "dsr")
_FURTHER = ("bin/tc_preamble.o", "bin/xdp_preamble.o", "bin/policy_default.o")


class CalicoEbpf(Calico):
    """felix with its eBPF data plane, for IPv6 too: VXLAN, no kube-proxy."""

    felix = "calico-felix-ebpf"
    programs = (felix, "calico")

    def build(self) -> None:
        objects()

    def prepare(self, cluster: Cluster) -> None:
        super().prepare(cluster)
        # Where its operator has it, and where others read it.
        felix = object_of("FelixConfiguration", "default", {"bpfEnabled": True})
        cluster.kubectl("apply", "-f", "-", input=json.dumps(felix))
        # Where the machine has version 1 and 2 side by side, the second has a folder of its own.
        unified = Path("/sys/fs/cgroup/unified")
        tree = unified if unified.exists() else unified.parent
        for node in cluster.nodes:
            node.run(
                [
                    "sh",
                    "-euc",
                    f"mkdir -p {_CGROUPS} {Path(_OBJECTS).parent}\n"
                    f"ln -s {objects()} {_OBJECTS}\n"
                    f"mount --bind {tree}/{CGROUP}/{node.name} {_CGROUPS}\n",
                ]
            )

    def facts(self, node: Node) -> dict[str, str]:
        # Programs for a family are only attached where the node's address is known.
        return {"projectcalico.org/IPv4Address": f"{node.host.ipv4}/24"}

    def settings(self) -> dict[str, str]:
        return {
            # From Linux 6.18 on, programs of several kinds can't share a map for tail calls, as
            # this release's for sockets do: those on links serve all protocols instead.
            "FELIX_BPFCONNECTTIMELOADBALANCING": "Disabled",
            # It would set it for the whole machine.
            "FELIX_BPFDISABLEUNPRIVILEGED": "false",
        }


def objects() -> Path:
    """The folder of felix's eBPF programs, in the cache: made from the module's sources."""
    sources = binaries.ebpf_sources(binaries.CALICO_EBPF)
    with locked(CACHE / "locks" / f"{sources.name}-objects"):
        _mend(sources)
        for script in ("list-objs", "calculate-flags"):
            (sources / script).chmod(0o755)
        listed = run([str(sources / "list-objs")], cwd=sources).split()
        wanted = [name for name in listed if _is_used(name)]
        run(
            ["nice", "-n", "5", "make", "-C", sources, *wanted, *_FURTHER],
            reassure="felix's eBPF programs:",
        )
    return sources / "bin"


def _mend(sources: Path) -> None:
    """Have a length be signed: with this release's the kernel's verifier finds no lower bound for
    it, and refuses the programs for IPv6.
    """
    path = sources / "icmp6.h"
    text, refused = path.read_text(), "__u32 sz = 128;"
    if refused in text:
        path.write_text(text.replace(refused, "int sz = 128;"))


def _is_used(name: str) -> bool:
    if any(part in name for part in _UNUSED):
        return False
    # Of XDP's, those for IPv4 have no form for old kernels.
    return "_co-re" in name or name.startswith("bin/xdp_")
