"""A real Kubernetes cluster on one machine, for tests and the demo; see README.md beside this."""

from tests.cluster.cluster import Cluster
from tests.cluster.controlplane import ControlPlane
from tests.cluster.run import ClusterError

__all__ = ["Cluster", "ClusterError", "ControlPlane"]
