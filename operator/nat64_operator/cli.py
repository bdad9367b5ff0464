"""The command `nat64-operator`: `run` is the operator; the chart's hooks use the others."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import urllib3
from kubernetes import client
from kubernetes import config as kube_config

from nat64_dataplane.log_format import FORMATS
from nat64_operator.edge import dns, lifecycle, logs, uninstall, verify
from nat64_operator.edge.kube import TIMEOUT, Kube
from nat64_operator.edge.lease import LEASE_TIMEOUT
from nat64_operator.edge.loop import NOWHERE
from nat64_operator.settings import Settings

log = logging.getLogger("nat64_operator")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(argv)
    try:
        level = logs.set_up(
            "debug" if options.verbose else getattr(options, "log_level", "info"),
            getattr(options, "log_format", "text"),
        )
    except ValueError as error:
        print(f"nat64-operator: {error}", file=sys.stderr)
        return 2
    if level > logging.DEBUG:
        for chatty in ("kopf", "aiohttp.access"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        if options.command == "uninstall":
            labelled = options.label_namespace == "true"
            return uninstall.run(connect(), options.timeout, options.namespace, labelled=labelled)
        if options.command == "verify":
            return verify.run(options.prefix, options.connect, options.patience)
        return run(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, kube_config.ConfigException) as error:
        print(f"nat64-operator: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Watch and reconcile until told to stop."""
    options.cluster_dns = options.cluster_dns or dns.cluster_server()
    return asyncio.run(
        lifecycle.run(
            connect(LEASE_TIMEOUT),
            _settings(options),
            cluster_dns=options.cluster_dns,
            sidecar_dns=options.sidecar_dns or _sidecar_dns(),
            probe_zones=_zones(options.probe_zones),
            health_address=options.health,
            label_namespace=options.label_namespace == "true",
        )
    )


def connect(timeout: tuple[int, int] = TIMEOUT) -> Kube:
    """Connect with the pod's own account, else with the kubeconfig."""
    found = client.Configuration()
    try:
        kube_config.load_incluster_config(client_configuration=found)
    except kube_config.ConfigException:
        kube_config.load_kube_config(client_configuration=found)
    # The loop retries with a backoff; urllib3 must not retry at once on its own.
    found.retries = urllib3.Retry(0, raise_on_status=False)
    return Kube(client.ApiClient(found), timeout)


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        namespace=options.namespace,
        dataplane_image=options.dataplane_image,
        image_pull_policy=options.image_pull_policy,
        image_pull_secrets=tuple(filter(None, options.image_pull_secrets.split(","))),
        priority_class=options.priority_class,
        service_account=options.dataplane_service_account,
        service_addresses=_service_addresses(options.cluster_dns),
        translator_resources=_json("--translator-resources", options.translator_resources),
        dns64_resources=_json("--dns64-resources", options.dns64_resources),
        pod_labels=_json("--pod-labels", options.pod_labels),
        pod_annotations=_json("--pod-annotations", options.pod_annotations),
        log_format=_one_of("--dataplane-log-format", options.dataplane_log_format, FORMATS),
        service_labels=_json("--service-labels", options.service_labels),
        service_annotations=_json("--service-annotations", options.service_annotations),
        startup_taint=options.startup_taint,
        selinux_options=_json("--selinux-options", options.selinux_options),
        coredns_namespace=options.coredns_namespace,
        confirm_seconds=options.confirm_seconds,
        removal_seconds=options.removal_seconds,
        corefile_seconds=options.corefile_seconds,
        drain_seconds=options.drain_seconds,
        retry_seconds=options.retry_seconds,
    )


def _one_of(flag: str, text: str, words: Sequence[str]) -> str:
    if text not in words:
        raise ValueError(f"{flag} {text!r}: there are {', '.join(words)}")
    return text


def _service_addresses(cluster_dns: str) -> tuple[str, ...]:
    """The addresses of Services that every pod knows."""
    known = [os.environ.get("KUBERNETES_SERVICE_HOST", ""), dns.split(cluster_dns)[0]]
    return tuple(filter(None, known))


def _sidecar_dns() -> str:
    """Where the sidecars are asked unless a flag says so: in the cluster at their own addresses,
    which lead nowhere outside of it.
    """
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return ""
    log.warning("outside of the cluster: a Corefile is written without asking the sidecars first")
    return NOWHERE


def _zones(text: str) -> tuple[str, ...]:
    found = tuple(f"{zone.strip().strip('.')}." for zone in text.split(",") if zone.strip(" ."))
    if not found:
        raise ValueError(f"--probe-zones {text!r} names no zone, as in invalid")
    return found


def _json(flag: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"{flag} {text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{flag} {text!r} must be a JSON object")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nat64-operator",
        description="Carries out NAT64Gateway and DNS64Policy objects.",
        epilog="Each flag can be given as an environment variable too: --dataplane-image is "
        "NAT64_DATAPLANE_IMAGE.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="watch and reconcile until told to stop")
    runs.add_argument("-v", "--verbose", action="store_true", help="log every step")
    _flag(runs, "--namespace", "nat64-system", "where the DaemonSets and the operator are")
    _flag(runs, "--dataplane-image", None, "the image of translator and sidecar")
    _flag(runs, "--image-pull-policy", "IfNotPresent", "when that image is pulled")
    _flag(runs, "--image-pull-secrets", "", "names of Secrets to pull it with, comma-separated")
    _flag(runs, "--priority-class", "system-node-critical", "priority of its pods")
    _flag(runs, "--dataplane-service-account", "nat64-dataplane", "ServiceAccount of its pods")
    _flag(runs, "--translator-resources", "{}", "resources of the translator, JSON")
    _flag(runs, "--dns64-resources", "{}", "resources of the sidecar, JSON")
    _flag(runs, "--pod-labels", "{}", "labels of its pods, JSON")
    _flag(runs, "--pod-annotations", "{}", "annotations of its pods, JSON")
    _flag(runs, "--service-labels", "{}", "labels of the sidecars' Services, JSON")
    _flag(runs, "--service-annotations", "{}", "annotations of these Services, JSON")
    _flag(runs, "--selinux-options", "{}", "seLinuxOptions of the translator, JSON")
    _flag(runs, "--startup-taint", "", "key of a taint that nodes lose once they translate")
    _flag(runs, "--dataplane-log-format", "text", "of its logs: text or json")
    _flag(runs, "--log-level", "info", "debug, info, warning or error; -v is debug")
    _flag(runs, "--log-format", "text", "text, or json: an object a line")
    _flag(
        runs,
        "--cluster-dns",
        "",
        "the cluster's DNS; this pod's nameserver when empty",
    )
    _flag(
        runs,
        "--coredns-namespace",
        "kube-system",
        "where CoreDNS is, and the backup of its file",
    )
    _flag(
        runs,
        "--sidecar-dns",
        "",
        "for an operator outside of the cluster: where it asks the sidecars, instead of the "
        "addresses of their Service and pods; when empty, it doesn't ask them",
    )
    _flag(
        runs,
        "--probe-zones",
        "invalid",
        "comma-separated zones whose resolver answers for any name in them: random names there "
        "show whether names resolve",
    )
    _flag(
        runs, "--health", "[::]:8080", "address of /healthz, /readyz and /metrics; empty for none"
    )
    _flag(runs, "--confirm-seconds", 300, "how long CoreDNS has to answer through the sidecars")
    _flag(runs, "--corefile-seconds", 10, "how often CoreDNS's configuration is read again")
    _flag(
        runs,
        "--drain-seconds",
        120,
        "how long CoreDNS has to stop asking sidecars before they are removed",
    )
    _flag(runs, "--retry-seconds", 900, "how long a restored Corefile is left alone")
    _flag(runs, "--removal-seconds", 300, "how long nodes have to remove a gateway's traces")
    _flag(runs, "--label-namespace", "false", "true: label the namespace for Pod Security")
    leaves = commands.add_parser(
        "uninstall", help="delete all gateways and policies and wait until they are gone"
    )
    leaves.add_argument("-v", "--verbose", action="store_true", help="log every step")
    leaves.add_argument("--timeout", type=int, default=600, help="seconds to wait [600]")
    _flag(leaves, "--namespace", "nat64-system", "where the operator is")
    _flag(leaves, "--label-namespace", "false", "true: remove the labels that `run` set there")
    checks = commands.add_parser(
        "verify", help="in a pod: resolve and connect through NAT64, and report the result"
    )
    checks.add_argument("-v", "--verbose", action="store_true", help="log every step")
    _flag(checks, "--prefix", "64:ff9b::/96", "the gateway's prefix")
    _flag(checks, "--connect", "", "HOST:PORT of a server with IPv4 only")
    _flag(checks, "--patience", 60, "for how many seconds to retry what fails")
    return parser


def _flag(parser: argparse.ArgumentParser, name: str, default: str | int | None, text: str) -> None:
    variable = "NAT64_" + name.strip("-").replace("-", "_").upper()
    value = os.environ.get(variable, default)
    parser.add_argument(
        name,
        default=value,
        type=int if isinstance(default, int) else str,
        required=value is None,
        help=f"{text} [{default}]" if default not in (None, "") else text,
    )


if __name__ == "__main__":
    sys.exit(main())
