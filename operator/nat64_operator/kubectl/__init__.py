"""`kubectl nat64`: shows what the product does in a cluster, and why it doesn't, with the user's
rights.

`cluster` and `facts` read: objects from the API server, nodes by `exec` into the agents' pods. All
other modules judge and print what was read, and are pure. Imports `coredns`, `render` and `api`; it
never knows kopf, `edge` or `reconcile`.
"""
