"""The cluster of kind-config.yaml, made by the real `kind`, as the harness's own is used."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from tests.cluster import binaries, images
from tests.cluster.cluster import Cluster
from tests.cluster.images import Image
from tests.cluster.network import Host
from tests.cluster.node import Node
from tests.cluster.paths import CACHE, REPO
from tests.cluster.run import ClusterError, locked, say
from tests.cluster.setup import Setup
from tests.environments.kind import nodeimage
from tests.environments.kind.engine import ADDRESS, STATE, Engine, docker_folder, ensure_docker

NAME = "nat64"
# The harness's names of nodes, which its tests use, and kind's.
_NODES = {"node1": f"{NAME}-worker", "node2": f"{NAME}-worker2", "node0": f"{NAME}-control-plane"}


class KindNode(Node):
    """One of kind's nodes, which is a container."""

    def __init__(self, engine: Engine, host: Host) -> None:
        super().__init__(host)
        self._engine = engine

    def enter(self) -> list[str]:
        return [*self._engine.enter(), "docker", "exec", "--privileged", "--interactive", self.name]

    def ctr(self, *args: str) -> str:
        return self.run(["ctr", "--namespace", "k8s.io", *args])


class KindCluster(Cluster):
    """Three nodes in Docker. What the harness's cluster has and this one lacks raises an error."""

    def __init__(self, setup: Setup | None = None) -> None:
        super().__init__(setup)
        self.engine = Engine()
        self.internet = self.engine.internet
        self.kubeconfig = STATE / "kubeconfig"

    def node(self, name: str) -> Node:
        return super().node(_NODES.get(name, name))

    def client(self, name: str, *args: str) -> list[str]:
        return [*self.beside_api(), str(binaries.ensure(name)[name]), *args]

    def beside_api(self) -> list[str]:
        return [*self.engine.enter(), f"KUBECONFIG={self.kubeconfig}"]

    def build(self) -> dict[Image, Path]:
        ensure_docker()
        nodeimage.ensure()
        return images.ensure([image for image in images.equipment() if image.target == "client"])

    def lacking(self) -> list[str]:
        missing = {"Docker": docker_folder(), "the node image": nodeimage.archive()}
        return super().lacking() + [name for name, path in missing.items() if not path.exists()]

    def up(self, *, audit: bool = False) -> None:  # noqa: ARG002
        archives = self.build()
        with locked(CACHE / "locks" / "cluster"):
            began = time.monotonic()
            try:
                self.engine.start()
                self._create()
            except BaseException:
                say(f"kind: failed to start; logs are in {STATE} until the next up or down")
                raise
            for archive in archives.values():
                self._kind("load", "image-archive", "--name", NAME, str(archive))
            say(f"kind: up in {time.monotonic() - began:.0f} s")

    def down(self) -> None:
        with locked(CACHE / "locks" / "cluster"):
            # What is not deleted, because Docker has ended, is by the next start.
            with contextlib.suppress(ClusterError):
                self._kind("delete", "cluster", "--name", NAME)
            self.engine.stop()
        say("kind: down")

    def load_images(self) -> None:
        """README's steps, but that Docker is given the images: it has no registry to build from."""
        archives = images.ensure(images.PRODUCT)
        for archive in archives.values():
            self.engine.run(["docker", "load", "--input", str(archive)])
        names = [image.name for image in archives]
        self._kind("load", "docker-image", "--name", NAME, *names)
        # Docker's folder is in the cache, which is not to grow with each run.
        self.engine.run(["docker", "image", "rm", *names])

    def _create(self) -> None:
        name, archive = nodeimage.ensure()
        digest = self.engine.run(["docker", "images", "--quiet", "--no-trunc", name]).strip()
        mark = self.engine.data.with_name("loaded")
        if not digest or not mark.exists() or mark.read_text() != f"{archive.name} {digest}":
            say("kind: giving Docker the node image ...")
            self.engine.run(["docker", "load", "--input", str(archive)])
            digest = self.engine.run(["docker", "images", "--quiet", "--no-trunc", name]).strip()
            mark.write_text(f"{archive.name} {digest}")
        say("kind: kind create cluster --config kind-config.yaml")
        config = str(REPO / "kind-config.yaml")
        self._kind("create", "cluster", "--config", config, "--image", name, "--wait", "120s")
        self._nodes = tuple(self._node(name) for name in _NODES.values())

    def _node(self, name: str) -> KindNode:
        path = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}"
        ipv6 = self.engine.run(["docker", "inspect", "--format", path, name]).strip()
        # What the internet sees of its IPv4 is the engine's, since Docker masquerades.
        return KindNode(self.engine, Host(name, ADDRESS, ipv6))

    def _kind(self, *args: str) -> None:
        kind = str(binaries.ensure("kind")["kind"])
        self.engine.run(["env", f"KUBECONFIG={self.kubeconfig}", kind, *args])

    def problems(self) -> list[str]:
        try:
            items = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        except ClusterError as error:
            return [str(error)]
        return [] if len(items) == len(_NODES) else [f"there are {len(items)} nodes"]
