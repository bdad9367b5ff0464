"""The stateful NAT64 translator (RFC 6146): eBPF at tc, loaded and supervised from here.

Imports libbpf and netlink, the config and what the programs share; must never know Kubernetes,
nor the DNS64 sidecar, which reads only the status file.
"""
