"""The CLAT of this node's pods (464XLAT, RFC 6877): IPv4 literals in pods that have only IPv6.

Imports bpf, config, http_server and what the translator offers for counters and run directories:
both programs are made of the same headers. Must never know of Kubernetes' API, and must enter
nothing of a pod but its network namespace.
"""
