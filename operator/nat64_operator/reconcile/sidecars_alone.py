"""Sidecars that answer although none of their pods is ready.

A pod is ready if all its containers are. A translator whose agent ends, or is restarted again and
again, goes on translating, and its sidecar knows that and answers: but the pod is not ready, and
without any ready pod the Service has no endpoint. CoreDNS then asks upstreams that know no IPv6
address of the names, and keeps what they say. So while that is so, the Service lists the pods that
are not ready.

It must not do so always: a sidecar or a node that is down would stay listed, and CoreDNS would wait
for it.
"""

from __future__ import annotations

from nat64_operator.reconcile.world import World, get
from nat64_operator.render import names


def unserved(world: World) -> set[str]:
    """Gateways whose Service should have endpoints, and has none that is ready."""
    return {name for name in world.gateways if _lacks_endpoints(name, world)}


def publishes(gateway: str, world: World) -> bool:
    """Whether a gateway's Service is to list pods that are not ready: where no pod is, and at
    least half of the sidecars answer.
    """
    if not _lacks_endpoints(gateway, world):
        return False
    answers = [pod.answers and _is_up(pod.node, world) for pod in world.unserved.get(gateway, ())]
    return sum(answers) > 0 and sum(answers) * 2 >= len(answers)


def _lacks_endpoints(gateway: str, world: World) -> bool:
    service = world.find("Service", names.dns_service(gateway))
    selector = get(service, "spec", "selector") or {}
    return bool(selector) and (
        names.WITHDRAWN_LABEL not in selector
        and not world.endpoints.get(names.dns_service(gateway))
    )


def _is_up(node: str, world: World) -> bool:
    """Whether what the kubelet said last of its containers is still so."""
    found = world.nodes.get(node)
    return found is not None and found.ready
