"""Observed state in, a plan out: `reconcile` is one pure, level-triggered function.

Imports `coredns`, `render` and `api`. It never knows the clock, the API server or kopf: everything
that a decision depends on is in a `World`.
"""

from nat64_operator.reconcile.nodes import Node
from nat64_operator.reconcile.plan import reconcile
from nat64_operator.reconcile.world import Pod, World

__all__ = ["Node", "Pod", "World", "reconcile"]
