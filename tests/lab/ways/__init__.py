"""A node's ways out over IPv4, compared: where its own connections go, and where a pod's go.

`setup` describes how a node is set up, `taps` is the world at the far end of its links, `worker`
runs on the node and makes both kinds of connection, `compare` says what differs.
"""
