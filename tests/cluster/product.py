"""nat64-operator on the cluster: what the demo and the end-to-end tests both do with it."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.cluster.paths import REPO
from tests.cluster.run import ClusterError

NAMESPACE = "nat64-system"
RELEASE = "nat64-operator"
# A local-use prefix (RFC 8215): the harness's internet lives on documentation addresses, which
# the well-known prefix must not stand for.
PREFIX = "64:ff9b:1::/96"
# Of both roles.
_AGENTS = "app.kubernetes.io/component in (dataplane,router)"
KINDS = ("nat64gateways.nat64-operator.io", "dns64policies.nat64-operator.io")

GATEWAY: dict[str, Any] = {
    "apiVersion": "nat64-operator.io/v1alpha1",
    "kind": "NAT64Gateway",
    "metadata": {"name": "default"},
    "spec": {"prefix": PREFIX},
}
POLICY: dict[str, Any] = {
    "apiVersion": "nat64-operator.io/v1alpha1",
    "kind": "DNS64Policy",
    "metadata": {"name": "default"},
    "spec": {},
}


class Product:
    """The chart and the two resources on a running cluster."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        gateway: dict[str, Any] = GATEWAY,
        policy: dict[str, Any] = POLICY,
        chart: tuple[str, ...] = (),
    ) -> None:
        self.cluster, self._resources, self._chart = cluster, (gateway, policy), chart

    def install(self) -> None:
        """Install or upgrade the chart, with the images that the harness built."""
        sets = [
            f"--set={image.target}.image.{key}={value}"
            for image in images.PRODUCT
            for key, value in (
                ("repository", image.name.rpartition(":")[0]),
                ("tag", image.tag),
            )
        ]
        self.cluster.helm(
            *("upgrade", "--install", RELEASE, str(REPO / "charts" / "nat64-operator")),
            *(f"--namespace={NAMESPACE}", "--create-namespace", "--wait", "--timeout=120s"),
            *sets,
            *self._chart,
        )

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply the two resources, or others."""
        documents = yaml.safe_dump_all(objects or self._resources, sort_keys=False)
        self.cluster.kubectl("apply", "-f", "-", input=documents)

    def wait_ready(self, timeout: float = 240) -> None:
        """Wait until both are Ready; say what their conditions are where they aren't."""
        limit = ("--for=condition=Ready=true", f"--timeout={timeout:.0f}s")
        for kind in KINDS:
            done = self.cluster.kubectl("wait", f"{kind}/default", *limit, check=False)
            if "condition met" not in done:
                raise ClusterError(f"{kind}/default isn't Ready:\n{self.explain()}")

    def explain(self) -> str:
        """What the cluster says about us, for whoever has to find out why something failed."""
        parts = [
            self.cluster.kubectl("describe", ",".join(KINDS), check=False),
            self.cluster.kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide", check=False),
            self.cluster.kubectl("-n", NAMESPACE, "get", "events", check=False),
        ]
        for pod in self.pods():
            log = ("logs", pod, "--all-containers", "--prefix", "--tail=40")
            parts.append(self.cluster.kubectl("-n", NAMESPACE, *log, check=False))
        return "\n".join(parts)

    def pods(self) -> list[str]:
        """The names of our pods, the operator's and the agents'."""
        return self.cluster.kubectl("-n", NAMESPACE, "get", "pods", "-o", "name").split()

    def agent_on(self, node: str) -> str:
        """The name of the agent pod on a node."""
        path = "jsonpath={.items[*].metadata.name}"
        where = f"--field-selector=spec.nodeName={self.cluster.node(node).name}"
        what = ("get", "pods", "-l", _AGENTS, where, "-o", path)
        names = self.cluster.kubectl("-n", NAMESPACE, *what).split()
        if len(names) != 1:
            raise ClusterError(f"{node} has {len(names)} agents, not one: {names}")
        return names[0]

    def translator(self, node: str, *argv: str) -> Any:
        """Run `nat64-translator ... -o json` in the agent on a node; return what it printed."""
        command = ("nat64-translator", *argv, "-o", "json")
        pod = self.agent_on(node)
        where = ("-n", NAMESPACE, "exec", pod, "-c", "translator", "--")
        return json.loads(self.cluster.kubectl(*where, *command))

    def delete(self, timeout: float = 300) -> None:
        """Delete both resources, as a user does before `helm uninstall`, and wait for the end."""
        for kind in reversed(KINDS):
            what = (kind, "default", "--ignore-not-found")
            self.cluster.kubectl("delete", *what, f"--timeout={timeout:.0f}s")

    def uninstall(self) -> None:
        """Take all of it away again."""
        self.delete()
        where = f"--namespace={NAMESPACE}"
        self.cluster.helm("uninstall", RELEASE, where, "--wait", "--ignore-not-found")
        self.cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")


class Pod:
    """A pod of the client image, with curl, dig, ping and python3."""

    def __init__(self, cluster: Cluster, name: str, node: str) -> None:
        self.cluster, self.name, self.node = cluster, name, node

    def start(self) -> None:
        """Create it afresh and wait until it runs."""
        self.delete()
        container = {
            "name": "client",
            "image": f"{images.PREFIX}/client:dev",
            "command": ["sleep", "infinity"],
        }
        spec = {
            "nodeName": self.cluster.node(self.node).name,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name},
            "spec": spec,
        }
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(pod))
        self.cluster.kubectl("wait", f"pod/{self.name}", "--for=condition=Ready", "--timeout=60s")

    def exec(self, *argv: str, check: bool = True) -> str:
        """Run a command in it and return what it printed."""
        return self.cluster.kubectl("exec", self.name, "--", *argv, check=check)

    def sh(self, script: str, check: bool = True) -> str:
        """Run a shell script in it."""
        return self.exec("sh", "-c", script, check=check)

    def addresses(self, family: int) -> list[str]:
        """Its global addresses of one family (4 or 6), as its own kernel lists them."""
        listing = json.loads(self.exec("ip", "-json", f"-{family}", "address", "show"))
        return [
            address["local"]
            for link in listing
            for address in link.get("addr_info", [])
            if address["scope"] == "global"
        ]

    def delete(self) -> None:
        """Remove it, if it is there."""
        what = ("delete", "pod", self.name, "--ignore-not-found", "--now")
        self.cluster.kubectl(*what)
