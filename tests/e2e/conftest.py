"""One cluster for all end-to-end tests.

It is left running, since a developer's next run then starts at once; `make cluster-down` ends it.
"""

import pytest

from tests.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Both nodes, the control plane, CoreDNS and the internet: see tests/cluster/README.md."""
    cluster = Cluster()
    cluster.up()
    return cluster
