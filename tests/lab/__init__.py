"""Network namespaces as test equipment: nodes, the topologies they form, and servers on them."""
