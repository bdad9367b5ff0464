"""The edge: the API server, with the user's kubeconfig and rights, and commands in pods."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import urllib3
import websocket
import yaml
from kubernetes import client
from kubernetes import config as kube_config
from kubernetes.stream import stream, ws_client

from nat64_operator.apiserver import TROUBLE, Connection, say
from nat64_operator.kubectl.exec_output import ClusterError, Json, Output

TIMEOUT = (5, 30)
"""Seconds to connect and to answer."""
EXEC_SECONDS = 60
PAGE = 500
IMPERSONATE = "Impersonate-User"


class Cluster:
    """One cluster, as one user sees it."""

    def __init__(self, configuration: client.Configuration, namespace: str, user: str = "") -> None:
        """`user` is the user to impersonate; empty for the user of the kubeconfig."""
        self._configuration, self._user = configuration, user
        self._connection = Connection(self._client(), TIMEOUT, PAGE)
        self.namespace = namespace
        """The namespace of the user's context, for pods that are named without one."""

    @classmethod
    def connect(cls, kubeconfig: str | None, context: str | None, user: str = "") -> Cluster:
        """Connect as kubectl would. Raises ClusterError."""
        configuration = client.Configuration()
        try:
            kube_config.load_kube_config(kubeconfig, context, configuration)
            contexts, current = kube_config.list_kube_config_contexts(kubeconfig)
        except (kube_config.ConfigException, OSError, yaml.YAMLError) as error:
            raise ClusterError(f"no cluster: {error}") from error
        chosen = next((c for c in contexts if c["name"] == context), current)
        return cls(configuration, chosen["context"].get("namespace") or "default", user)

    def get(self, path: str, **query: str) -> Json:
        """One object. Raises ClusterError."""
        try:
            return self._connection.request("GET", path, query)
        except TROUBLE as error:
            raise _cluster_error(error) from error

    def items(self, path: str, **query: str) -> list[Json]:
        """A list, all pages of it. Raises ClusterError."""
        try:
            return list(self._connection.items(path, query))
        except TROUBLE as error:
            raise _cluster_error(error) from error

    def create(self, path: str, body: Json) -> Json:
        """Make an object. Raises ClusterError."""
        try:
            return self._connection.request("POST", path, body=body)
        except TROUBLE as error:
            raise _cluster_error(error) from error

    def delete(self, path: str) -> None:
        """Delete an object; one that is gone is no error. Raises ClusterError."""
        try:
            self._connection.request("DELETE", path)
        except TROUBLE as error:
            if not isinstance(error, client.ApiException) or error.status != 404:
                raise _cluster_error(error) from error

    def log(
        self, namespace: str, pod: str, container: str, lines: int, *, previous: bool = False
    ) -> str:
        """The last lines of a container's log. Raises ClusterError."""
        api = client.CoreV1Api(self._client())
        try:
            response = api.read_namespaced_pod_log(
                pod,
                namespace,
                container=container,
                previous=previous,
                tail_lines=lines,
                timestamps=True,
                _preload_content=False,
                _request_timeout=TIMEOUT,
            )
            return str(response.data.decode(errors="replace"))
        except TROUBLE as error:
            raise _cluster_error(error) from error

    def exec(self, namespace: str, pod: str, container: str, argv: Sequence[str]) -> Output:
        """Run a command in a pod. Raises ClusterError if it couldn't be started."""
        # A client of its own, because the stream replaces a method of the client while it runs, and
        # several run at a time.
        api = client.CoreV1Api(self._client())
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
            raise ClusterError(*refused(pod, error)) from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            # The stream didn't end with a status and an exit code: it was cut off.
            raise ClusterError(f"pod {pod}: {argv[0]} was cut off: {error}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"pod {pod}: {error}") from error

    def _client(self) -> client.ApiClient:
        api = client.ApiClient(self._configuration)
        if self._user:
            api.set_default_header(IMPERSONATE, self._user)
            # The client's websocket passes on no header of ours. One process serves one user.
            ws_client.WebSocket = partial(_ImpersonatingSocket, self._user)
        return api


class _ImpersonatingSocket(websocket.WebSocket):
    """A websocket with the header for impersonation."""

    def __init__(self, user: str, **options: Any) -> None:
        super().__init__(**options)
        self._user = user

    def connect(self, url: str, **options: Any) -> None:
        header = [*options.pop("header", ()), f"{IMPERSONATE}: {self._user}"]
        super().connect(url, header=header, **options)  # type: ignore[no-untyped-call]


_HANDSHAKE = re.compile(r"Handshake status (\d{3})")
_MESSAGE = re.compile(r'"message":\s*("(?:[^"\\]|\\.)*")')


def refused(pod: str, error: client.ApiException) -> tuple[str, int]:
    """Why a command could not be started, as a sentence, and the HTTP status; 0 if there is none.

    The client reports a refused websocket as one text, with all headers and the body in it.
    """
    reason = str(error.reason)
    status = _HANDSHAKE.match(reason)
    said = _MESSAGE.search(reason)
    if said:
        reason = str(json.loads(said[1]))
    elif status:
        reason = f"the API server answers {status[1]}"
    return f"pod {pod}: {reason}", int(status[1]) if status else error.status or 0


def _cluster_error(error: Exception) -> ClusterError:
    if isinstance(error, client.ApiException):
        return ClusterError(say(error), error.status or 0)
    return ClusterError(f"the API server does not answer: {say(error)}")
