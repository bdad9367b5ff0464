"""An environment: a cluster that someone may have, as parameters of the real cluster."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster import binaries
from tests.cluster.cluster import Cluster
from tests.cluster.product import GATEWAY, POLICY, Product
from tests.cluster.run import run
from tests.cluster.setup import Setup

NOT_STARTED = 75
"""What a run of the suite exits with where there was no cluster to test."""


@dataclass(frozen=True)
class Environment:
    """What is started, and what the product is told there."""

    setup: Setup
    # What differs, in a few words; docs/cni.md has them.
    says: str
    # The specs of both resources, where they are not the usual ones.
    gateway: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    # Flags for Helm.
    chart: tuple[str, ...] = ()
    # What `doctor` has to warn of here, as parts of its texts; of anything else it must not.
    warnings: tuple[str, ...] = ()
    # Where the product can't work: what `doctor` has to stop at, as parts of its texts.
    stops: tuple[str, ...] = ()
    # Debian packages that take part, whose versions the result names.
    packages: tuple[str, ...] = ()
    # What starts it, where that is not the harness.
    start: Callable[[Setup], Cluster] = Cluster
    # Versions of what is neither a program of the harness nor a package of this machine.
    further_versions: Callable[[], dict[str, str]] = dict
    # For start, suite and end together.
    seconds: int = 900

    @property
    def name(self) -> str:
        """What `ENVIRONMENT=` and its result file are called."""
        return self.setup.name

    @property
    def suite(self) -> str:
        """What must hold in it."""
        return "test_without_replies.py" if self.stops else "test_suite.py"

    def cluster(self) -> Cluster:
        """The cluster, up or not."""
        return self.start(self.setup)

    def gateway_object(self, **further: Any) -> dict[str, Any]:
        """The NAT64Gateway as it is here, with these further fields in its spec."""
        return {**GATEWAY, "spec": {**GATEWAY["spec"], **self.gateway, **further}}

    def product(self, cluster: Cluster) -> Product:
        """The product as it is installed here."""
        gateway = self.gateway_object()
        policy = {**POLICY, "spec": {**POLICY["spec"], **self.policy}}
        return Product(cluster, gateway=gateway, policy=policy, chart=self.chart)

    def versions(self) -> dict[str, str]:
        """What takes part, with the version of each."""
        programs = ["kubelet", "containerd", "coredns"]
        programs += ["kube-proxy"] if self.setup.kube_proxy else []
        programs += [*self.setup.pod_network.programs, *self.setup.programs]
        found = {"Linux": platform.release(), **self.further_versions()}
        for program in programs:
            found[program] = binaries.version_of(program)
        for package in ("containernetworking-plugins", *self.packages):
            found[package] = run(["dpkg-query", "-W", "-f", "${Version}", package])
        return found
