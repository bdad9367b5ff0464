"""The environment that the variable ENVIRONMENT names, with the product on it.

Without the variable nothing is collected here: `make test-environments` runs each environment in a
process of its own, which may be ended when its time is up.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cluster import Cluster
from tests.cluster.product import Product
from tests.cluster.run import ClusterError
from tests.e2e.test_product import corefile
from tests.environments.catalogue import ENVIRONMENTS
from tests.environments.environment import NOT_STARTED, Environment

collect_ignore_glob = [] if "ENVIRONMENT" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def environment() -> Environment:
    return ENVIRONMENTS[os.environ["ENVIRONMENT"]]


@pytest.fixture(scope="session")
def cluster(environment: Environment) -> Cluster:
    """Up; the runner keeps its logs and takes it away, however pytest ends."""
    cluster = environment.cluster()
    try:
        cluster.up()
    except (ClusterError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        pytest.exit(f"{environment.name} did not start", NOT_STARTED)
    return cluster


@pytest.fixture(scope="session")
def corefile_before(cluster: Cluster) -> str:
    """What CoreDNS is told without us."""
    return corefile(cluster)


@pytest.fixture(scope="session")
def product(cluster: Cluster, environment: Environment, corefile_before: str) -> Product:
    """The chart and both resources, Ready; the last test takes them away."""
    cluster.load_images()
    product = environment.product(cluster)
    product.install()
    product.apply()
    product.wait_ready()
    return product
