"""Edits of CoreDNS's Corefile: what to write, what is recorded about it, and how to undo it. Pure.

Imports `api`, `render` and the data plane's Corefile reader. It never knows gateways, other objects
of a cluster or the API server.
"""
