"""The operator at scale: 200 gateways and policies, 5,000 nodes, on a real API server.

    python -m tests.bench.operator [--nodes N] [--gateways N]

Written to build/bench/operator.json: `reconcile_s` from one changed gateway to its changed
DaemonSet, `steady_requests_per_s` while nothing changes but the nodes' heartbeats, `rss_mib`, the
processor time, and whether the goals hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes.config
import yaml

from tests.cluster import ControlPlane, binaries
from tests.cluster.paths import REPO

OUT = REPO / "build" / "bench" / "operator.json"
NAMESPACE = "nat64-system"
GROUP = ("nat64-operator.io", "v1alpha1")
HEARTBEATS_PER_SECOND = 16
"""What 5,000 kubelets send: each its status every five minutes."""
STEADY_SECONDS = 60
CHART_ENV = {"MALLOC_ARENA_MAX": "1"}
"""What the chart's Deployment sets and matters here."""
CHANGES = 7
GOALS = {"reconcile_s": 2.0, "steady_requests_per_s": 1.0, "rss_mib": 200.0}
"""What an operator of this size must stay under."""
SETTLE_SECONDS = 300
RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--gateways", type=int, default=200)
    options = parser.parse_args()
    with ControlPlane(audit=True) as control_plane:
        measured = measure(control_plane, options.nodes, options.gateways)
    measured["goals"] = {name: measured[name] < limit for name, limit in GOALS.items()}
    measured["machine"] = machine()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(measured, indent=2) + "\n")
    for name in (*GOALS, "start_s", "peak_rss_mib", "cpu_s", "steady_cpu_percent"):
        goal = ""
        if name in GOALS:
            held = "held" if measured["goals"][name] else "MISSED"
            goal = f"goal: less than {GOALS[name]}, {held}"
        print(f"{name:24} {measured[name]:<10} {goal}".rstrip())
    print(f"written to {OUT.relative_to(REPO)}")
    return 0


def measure(control_plane: ControlPlane, nodes: int, gateways: int) -> dict[str, Any]:
    """Fill the API server, run the operator, change one thing at a time."""
    control_plane.kubectl("apply", "--server-side", "-f", str(REPO / "crds"))
    for name in ("nat64gateways", "dns64policies"):
        control_plane.kubectl("wait", f"crd/{name}.{GROUP[0]}", "--for=condition=Established")
    control_plane.kubectl("create", "namespace", NAMESPACE)
    kubernetes.config.load_kube_config(str(control_plane.kubeconfig))
    core, custom = kubernetes.client.CoreV1Api(), kubernetes.client.CustomObjectsApi()
    corefile = (REPO / "tests" / "unit" / "corefiles" / "kubeadm-1.33").read_text()
    coredns = {"metadata": {"name": "coredns"}, "data": {"Corefile": corefile}}
    core.create_namespaced_config_map("kube-system", coredns)
    with ThreadPoolExecutor(8) as pool:
        say(f"making {nodes} nodes")
        list(pool.map(lambda n: core.create_node(node(n, gateways)), range(nodes)))
        say(f"making {gateways} gateways and policies")
        for plural, make in (("nat64gateways", gateway), ("dns64policies", policy)):
            list(
                pool.map(
                    lambda n, plural=plural, make=make: custom.create_cluster_custom_object(
                        *GROUP, plural, make(n)
                    ),
                    range(gateways),
                )
            )
    apps = kubernetes.client.AppsV1Api()
    with operator(control_plane) as process:
        began = time.monotonic()
        wait(lambda: len(daemon_sets(apps)) == gateways, 300)
        start = time.monotonic() - began
        say(f"all DaemonSets are there after {start:.1f} s")
        settle(control_plane)
        reconcile = [change(custom, apps, n % gateways, n) for n in range(CHANGES)]
        settle(control_plane)
        busy = cpu(process.pid)
        requests = steady(control_plane, core, nodes)
        spent = cpu(process.pid)
        memory = rss(process.pid)
        assert process.poll() is None, "the operator died"
    return {
        "nodes": nodes,
        "gateways": gateways,
        "policies": gateways,
        "reconcile_s": round(statistics.median(reconcile), 3),
        "reconcile_runs_s": [round(value, 3) for value in reconcile],
        "start_s": round(start, 1),
        "steady_requests_per_s": round(requests, 3),
        "cpu_s": round(spent, 1),
        "steady_cpu_percent": round((spent - busy) * 100 / STEADY_SECONDS, 1),
        "rss_mib": round(memory["VmRSS"], 1),
        "peak_rss_mib": round(memory["VmHWM"], 1),
    }


def change(custom: Any, apps: Any, number: int, step: int) -> float:
    """Change one gateway; return after how long its DaemonSet is another."""
    name = f"g{number}"
    before = apps.read_namespaced_daemon_set(f"nat64-{name}", NAMESPACE).metadata.generation
    body = {"spec": {"timeouts": {"udpSeconds": 400 + step}}}
    began = time.monotonic()
    custom.patch_cluster_custom_object(*GROUP, "nat64gateways", name, body)
    wait(
        lambda: (
            apps.read_namespaced_daemon_set(f"nat64-{name}", NAMESPACE).metadata.generation > before
        ),
        60,
        every=0.02,
    )
    return time.monotonic() - began


def steady(control_plane: ControlPlane, core: Any, nodes: int) -> float:
    """The operator's requests a second while only heartbeats happen."""
    before, began = requests_of_the_operator(control_plane), time.monotonic()
    beat = 0
    while (passed := time.monotonic() - began) < STEADY_SECONDS:
        if beat < passed * HEARTBEATS_PER_SECOND:
            core.patch_node_status(f"node-{beat % nodes}", heartbeat(beat))
            beat += 1
        else:
            time.sleep(0.02)
    count = requests_of_the_operator(control_plane) - before
    say(f"{count} requests and {beat} heartbeats in {passed:.0f} s")
    return count / passed


def settle(control_plane: ControlPlane) -> None:
    """Wait until the operator's requests get rare. Raises TimeoutError if they never do."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        before = requests_of_the_operator(control_plane)
        time.sleep(5)
        if requests_of_the_operator(control_plane) - before <= 5:
            return
    raise TimeoutError(f"the operator still asks a lot after {SETTLE_SECONDS} s")


def requests_of_the_operator(control_plane: ControlPlane) -> int:
    """How many it has made, watches included, as the API server counted them."""
    assert control_plane.audit_log is not None, "started with audit"
    with control_plane.audit_log.open() as lines:
        return sum(f'"system:serviceaccount:{NAMESPACE}:nat64-operator"' in line for line in lines)


@contextmanager
def operator(control_plane: ControlPlane) -> Iterator[subprocess.Popen[bytes]]:
    """Run it, with the account and the rights that the chart gives it."""
    kubectl = control_plane.kubectl
    helm = binaries.ensure("helm")["helm"]
    argv = [str(helm), "template", "nat64-operator", str(REPO / "charts/nat64-operator")]
    chart = subprocess.run([*argv, "-n", NAMESPACE], check=True, capture_output=True, text=True)
    objects = [obj for obj in yaml.safe_load_all(chart.stdout) if obj and obj["kind"] in RIGHTS]
    kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))
    token = kubectl("-n", NAMESPACE, "create", "token", "nat64-operator", "--duration=2h").strip()
    kubeconfig = yaml.safe_load(control_plane.kubeconfig.read_text())
    kubeconfig["users"] = [{"name": "operator", "user": {"token": token}}]
    for context in kubeconfig["contexts"]:
        context["context"]["user"] = "operator"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kubeconfig"
        path.write_text(yaml.safe_dump(kubeconfig))
        argv = ["setpriv", "--pdeathsig", "KILL", "--"]
        argv += [str(Path(sys.executable).with_name("nat64-operator")), "run", "--health="]
        argv += ["--dataplane-image=dataplane:bench", "--cluster-dns=127.0.0.1"]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                argv,
                env={**os.environ, **CHART_ENV, "KUBECONFIG": str(path)},
                stdout=log,
                stderr=log,
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()


def node(number: int, groups: int) -> dict[str, Any]:
    """A Node about as large as a real one."""
    pods, own = f"fd00:10:{number:x}::/64", f"2001:db8::{number:x}"
    images = [
        {"names": [f"registry.example/image-{n}@sha256:{n:064x}"], "sizeBytes": 10_000_000}
        for n in range(20)
    ]
    return {
        "metadata": {
            "name": f"node-{number}",
            "labels": {
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": f"node-{number}",
                "group": f"g{number % groups}",
            },
        },
        "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": own}],
            "images": images,
            **heartbeat(0)["status"],
        },
    }


def heartbeat(number: int) -> dict[str, Any]:
    """What a kubelet says every few minutes."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_800_000_000 + number))
    conditions = [
        {
            "type": kind,
            "status": "True" if kind == "Ready" else "False",
            "reason": f"Kubelet{kind}",
            "message": "as it should be",
            "lastHeartbeatTime": stamp,
            "lastTransitionTime": "2026-11-24T07:00:00Z",
        }
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    ]
    return {"status": {"conditions": conditions}}


def gateway(number: int) -> dict[str, Any]:
    """A gateway with nodes, prefix and pool of its own."""
    return {
        "apiVersion": "/".join(GROUP),
        "kind": "NAT64Gateway",
        "metadata": {"name": f"g{number}"},
        "spec": {
            "prefix": f"64:ff9b:1:{number:x}::/96",
            "nodeSelector": {"group": f"g{number}"},
        },
    }


def policy(number: int) -> dict[str, Any]:
    """A policy for it; one has CoreDNS, the others are manual."""
    mode = "Forward" if number == 0 else "Manual"
    return {
        "apiVersion": "/".join(GROUP),
        "kind": "DNS64Policy",
        "metadata": {"name": f"g{number}"},
        "spec": {"gatewayRef": {"name": f"g{number}"}, "coreDNS": {"mode": mode}},
    }


def daemon_sets(apps: Any) -> list[Any]:
    """All DaemonSets of the operator."""
    found: list[Any] = apps.list_namespaced_daemon_set(NAMESPACE, resource_version="0").items
    return found


def wait(ready: Any, timeout: float, every: float = 0.5) -> None:
    """Until it is ready."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the operator did not get there")
        time.sleep(every)


def rss(pid: int) -> dict[str, float]:
    """Memory of a process now and at most, in MiB."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(row.split(":", 1) for row in rows)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """What it ran on."""
    rows = Path("/proc/cpuinfo").read_text().splitlines()
    models = (row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    return {
        "cpu": next(models, platform.machine()),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def say(text: str) -> None:
    """Progress, for a person."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
