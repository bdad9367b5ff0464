"""One cluster for all end-to-end tests.

One that was up before (`make cluster-up`, `make demo`) is used and left running, so that a
developer's next run starts at once; otherwise the tests start it and take it down again.
"""

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.cluster.product import Product


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Both nodes, the control plane, CoreDNS and the internet: see tests/cluster/README.md."""
    cluster = Cluster()
    was_up = not cluster.problems()
    cluster.up(audit=True)
    yield cluster
    if not was_up:
        cluster.down()


@pytest.fixture(scope="session")
def product(cluster: Cluster) -> Iterator[Product]:
    """The chart and both resources, Ready; whoever takes them away puts them back."""
    cluster.load_images()
    product = Product(cluster)
    product.install()
    product.apply()
    product.wait_ready()
    yield product
    product.uninstall()
