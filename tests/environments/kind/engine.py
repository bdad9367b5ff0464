"""Docker for kind: Debian's packages, unpacked into the cache and run in namespaces of their own.

Nothing is installed and no link or route leads into the machine's own network: the engine's network
ends at the harness's internet, where its names and servers are.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import network
from tests.cluster.internet import Internet
from tests.cluster.network import DNS_IPV4, SERVERS
from tests.cluster.node import detach
from tests.cluster.paths import CACHE
from tests.cluster.run import ClusterError, locked, run, say, wait_for

HERE = Path(__file__).resolve().parent
NAMESPACE, INTERNET = "nat64-kind", "nat64-kind-internet"
CGROUP = "nat64-kind"
STATE = Path("/var/lib/nat64-kind")
# What the internet sees, since Docker masquerades.
ADDRESS, ROUTER = "192.0.2.2", "192.0.2.1"
# Of docker.io's dependencies those that a Debian without it may lack.
_PACKAGES = ("docker.io", "containerd", "libdevmapper1.02.1")


def docker_version() -> dict[str, str]:
    """The version of Debian's package that is used."""
    return {"docker.io": _candidate("docker.io")}


def docker_folder() -> Path:
    """Where Docker is, or will be once it is unpacked."""
    version = _candidate("docker.io")
    return CACHE / f"docker-{re.sub(r'[^0-9a-zA-Z.]', '-', version)}"


def ensure_docker() -> Path:
    """Download and unpack Docker, unless the cache has it; return its folder."""
    home = docker_folder()
    with locked(CACHE / "locks" / "docker"):
        if not home.exists():
            say(f"kind: unpacking Debian's docker.io into {home} ...")
            unfinished = home.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            run(["apt-get", "download", "-qq", *_PACKAGES], cwd=unfinished)
            for package in unfinished.glob("*.deb"):
                run(["dpkg", "-x", package, unfinished])
                package.unlink()
            unfinished.rename(home)
    return home


def _candidate(package: str) -> str:
    found = re.search(r"Candidate: (\S+)", run(["apt-cache", "policy", package]))
    if found is None or found[1] == "(none)":
        raise ClusterError(f"kind needs Debian's {package}, which apt does not know here")
    return found[1]


class Engine:
    """Docker, running or not; there is at most one."""

    def __init__(self) -> None:
        self.internet = Internet(INTERNET, STATE)
        self.data = CACHE / "kind" / "docker"

    def enter(self) -> list[str]:
        """The words that put a command beside Docker, with its client and kind in the path."""
        spaces = ["--mount", "--net", "--uts", "--pid"]
        path = f"PATH={ensure_docker()}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        env = ["env", path, f"HOME={STATE}/home", "DOCKER_HOST=unix:///run/docker.sock"]
        return ["nsenter", "--target", str(self._init()), *spaces, "--", *env]

    def run(self, argv: Sequence[str]) -> str:
        """Run a command beside Docker and return its output."""
        return run([*self.enter(), *argv])

    def start(self) -> None:
        """Start Docker and the internet beside it, in place of what an earlier one left."""
        docker = ensure_docker()
        self.stop()
        STATE.mkdir(parents=True)
        self._connect()
        self.internet.start()
        script = str(HERE / "engine-init.sh")
        init = ["sh", script, str(docker), str(STATE), str(self.data), DNS_IPV4]
        enter = ["nsenter", f"--net=/run/netns/{NAMESPACE}"]
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork"]
        detach([*enter, *unshare, *init], STATE / "engine.log")
        wait_for(f"Docker (see {STATE}/engine.log)", lambda: bool(self.run(["docker", "info"])), 60)
        # What a killed run left: its images are worth keeping.
        if left := self.run(["docker", "ps", "-aq"]).split():
            self.run(["docker", "rm", "--force", "--volumes", *left])
        self.run(["docker", "network", "prune", "--force"])

    def stop(self) -> None:
        """End Docker and all that it started; nothing stays but what the cache has."""
        network.end((NAMESPACE, INTERNET))
        wait_for("the cgroups to empty", _cgroups_removed, timeout=20)
        shutil.rmtree(STATE, ignore_errors=True)

    def _connect(self) -> None:
        for namespace in (INTERNET, NAMESPACE):
            run(["ip", "netns", "add", namespace])
        link = ["link", "add", "uplink", "type", "veth", "peer", "name", "kind", "netns", INTERNET]
        _ip(NAMESPACE, *link)
        for command in (f"addr add {ROUTER}/30 dev kind", "link set kind up", "link set lo up"):
            _ip(INTERNET, *command.split())
        for address in SERVERS:
            more = ["nodad"] if ":" in address else []
            _ip(INTERNET, "addr", "add", address, "dev", "lo", *more)
        for command in (
            f"addr add {ADDRESS}/30 dev uplink",
            "link set uplink up",
            "link set lo up",
            f"route add default via {ROUTER}",
        ):
            _ip(NAMESPACE, *command.split())

    def _init(self) -> int:
        """The engine's first process: number 1 of the PID namespace below this one."""
        if pid := network.first_process(NAMESPACE):
            return pid
        raise ClusterError("Docker is not up")


def _ip(namespace: str, *words: str) -> None:
    run(["ip", "-n", namespace, *words])


def _cgroups_removed() -> bool:
    """Remove what Docker and the nodes in it made."""
    root = Path("/sys/fs/cgroup")
    below = [folder for folder in root.iterdir() if (folder / "cgroup.procs").exists()]
    for hierarchy in [root, *below]:
        top = hierarchy / CGROUP
        for folder in sorted([top, *top.rglob("*/")], reverse=True) if top.exists() else []:
            try:
                folder.rmdir()
            except OSError:
                return False
    return True
