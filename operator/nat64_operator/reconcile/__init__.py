"""From what there is to what to do: one pure function, called for any reason, as often as it is."""

from nat64_operator.reconcile.nodes import Node
from nat64_operator.reconcile.plan import reconcile
from nat64_operator.reconcile.world import Pod, World

__all__ = ["Node", "Pod", "World", "reconcile"]
