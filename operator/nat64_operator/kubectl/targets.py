"""Hosts, ports and pods as a user writes them. Pure."""

from __future__ import annotations

from nat64_operator.kubectl.exec_output import ClusterError

DEFAULT_PORT = 443


def split_target(text: str) -> tuple[str, int]:
    """Host and port of `name`, `name:80`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.

    Raises ClusterError.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or str(DEFAULT_PORT)
        good = bool(bracket)
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        good = True
    else:
        host, port, good = text, str(DEFAULT_PORT), True
    if not good or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ClusterError(f"{text!r}: write HOST or HOST:PORT, as in registry.example:443")
    return host.rstrip("."), int(port)


def pod_name(text: str, namespace: str) -> tuple[str, str]:
    """Namespace and name of `NAMESPACE/POD`, or of `POD` in a namespace."""
    before, slash, name = text.partition("/")
    return (before, name) if slash else (namespace, text)
