"""The edge: the API server, with the user's kubeconfig and rights, and commands in pods."""

from __future__ import annotations

import json
from collections.abc import Sequence

import urllib3
import yaml
from kubernetes import client
from kubernetes import config as kube_config
from kubernetes.stream import stream

from nat64_operator.kubectl.exec_output import ClusterError, Json, Output

TIMEOUT = (5, 30)
"""Seconds to connect and to answer."""
EXEC_SECONDS = 60
PAGE = 500


class Cluster:
    """One cluster, as one user sees it."""

    def __init__(self, configuration: client.Configuration, namespace: str) -> None:
        self._configuration = configuration
        self._api = client.ApiClient(configuration)
        self.namespace = namespace
        """The namespace of the user's context: where a pod without one is looked for."""

    @classmethod
    def connect(cls, kubeconfig: str | None, context: str | None) -> Cluster:
        """Connect as kubectl would. Raises ClusterError."""
        configuration = client.Configuration()
        try:
            kube_config.load_kube_config(kubeconfig, context, configuration)
            contexts, current = kube_config.list_kube_config_contexts(kubeconfig)
        except (kube_config.ConfigException, OSError, yaml.YAMLError) as error:
            raise ClusterError(f"no cluster: {error}") from error
        chosen = next((c for c in contexts if c["name"] == context), current)
        return cls(configuration, chosen["context"].get("namespace") or "default")

    def get(self, path: str, **query: str) -> Json:
        """One object. Raises ClusterError."""
        request = self._api.param_serialize(
            "GET",
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*request, _request_timeout=TIMEOUT)
            raw = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"the API server does not answer: {error}") from error
        if not 200 <= response.status <= 299:
            raise ClusterError(_message(raw, response.reason), response.status)
        parsed: Json = json.loads(raw)
        return parsed

    def items(self, path: str, **query: str) -> list[Json]:
        """A list, all pages of it. Raises ClusterError."""
        found: list[Json] = []
        query["limit"] = str(PAGE)
        while True:
            page = self.get(path, **query)
            found += page.get("items") or ()
            more = page["metadata"].get("continue")
            if not more:
                return found
            query["continue"] = more

    def exec(self, namespace: str, pod: str, container: str, argv: Sequence[str]) -> Output:
        """Run a command in a pod. Raises ClusterError where it couldn't be started."""
        # A client of its own: the stream replaces a method of the client for as long as it runs,
        # and several run at one time.
        api = client.CoreV1Api(client.ApiClient(self._configuration))
        try:
            done = stream(
                api.connect_get_namespaced_pod_exec,
                pod,
                namespace,
                container=container,
                command=list(argv),
                stdout=True,
                stderr=True,
                stdin=False,
                tty=False,
                _preload_content=False,
                _request_timeout=EXEC_SECONDS,
            )
            done.run_forever(timeout=EXEC_SECONDS)
            if done.is_open():
                done.close()
                raise ClusterError(f"pod {pod}: {argv[0]} took more than {EXEC_SECONDS} s")
            return Output(done.read_stdout(), done.read_stderr(), done.returncode)
        except client.ApiException as error:
            raise ClusterError(f"pod {pod}: exec: {error.reason}", error.status or 0) from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            # The stream's last word is not a status with an exit code: it was cut off.
            raise ClusterError(f"pod {pod}: {argv[0]} was cut off: {error}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"pod {pod}: {error}") from error


def _message(raw: bytes, reason: str | None) -> str:
    try:
        message: str = json.loads(raw)["message"]
    except (TypeError, ValueError, KeyError):
        return f"the API server: {reason or 'an error without a reason'}"
    return message
