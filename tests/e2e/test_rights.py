"""What the operator asked the API server for in all these tests, beside what the chart grants.

The last file: the audit log holds the requests of all that ran before, under the shipped RBAC.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from tests.cluster.paths import REPO
from tests.cluster.product import NAMESPACE, RELEASE, Product

pytestmark = pytest.mark.cluster

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:nat64-operator"
# The rights of every option that some test uses.
OPTIONS = ("--set=operator.replicas=2", "--set=coreDNS.createCustomConfigMap=true")
OTHERS = {"test_lifecycle.py", "test_modes.py", "test_product.py"}


class Right(NamedTuple):
    """One thing that may be done; empty for all namespaces, or all names."""

    namespace: str
    group: str
    resource: str
    verb: str
    name: str

    def covers(self, request: Right) -> bool:
        """Whether it is what a request needs."""
        return (
            self[1:4] == request[1:4]
            and self.namespace in ("", request.namespace)
            and self.name in ("", request.name)
        )


def granted(product: Product) -> set[Right]:
    chart = str(REPO / "charts" / "nat64-operator")
    text = product.cluster.helm("template", RELEASE, chart, f"--namespace={NAMESPACE}", *OPTIONS)
    return {
        Right(obj["metadata"].get("namespace", ""), group, resource, verb, name)
        for obj in yaml.safe_load_all(text)
        if obj and obj["kind"] in ("Role", "ClusterRole")
        for rule in obj["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def requests(product: Product) -> Iterator[tuple[Right, Any]]:
    """Each request of the operator and of the uninstall hook."""
    for line in product.cluster.audit_log.read_text().splitlines():
        entry = json.loads(line)
        about = entry.get("objectRef")
        if entry["user"].get("username") != ACCOUNT or not about:
            continue
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        # A Namespace counts as its own; its Role is in it.
        right = Right(
            about.get("namespace", ""),
            about.get("apiGroup", ""),
            resource,
            entry["verb"],
            about.get("name", ""),
        )
        yield right, entry
        if right.verb == "patch" and (entry.get("responseStatus") or {}).get("code") == 201:
            yield right._replace(verb="create"), entry  # applying what isn't there makes it


@pytest.fixture(scope="module")
def asked(product: Product) -> set[Right]:
    found = {right for right, _ in requests(product)}
    assert len(found) > 10, "the audit log has the operator's requests"
    return found


def test_the_operator_asks_for_nothing_that_the_chart_does_not_grant(
    product: Product, asked: set[Right]
) -> None:
    rights = granted(product)
    assert {r for r in asked if not any(right.covers(r) for right in rights)} == set()


def test_the_chart_grants_nothing_that_no_test_used(
    product: Product, asked: set[Right], request: pytest.FixtureRequest
) -> None:
    ran = {item.path.name for item in request.session.items}
    if not ran >= OTHERS:
        pytest.skip("needs the requests of the other tests: run all of tests/e2e")
    unused = {right for right in granted(product) if not any(right.covers(r) for r in asked)}
    assert unused == set()
