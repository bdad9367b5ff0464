"""The programs' maps: their layouts, pins and config slots; reading, sweeping, carrying over.

Imports libbpf and the host view, which is all that it knows of the node; must never know netlink,
links or routes, nor the readers of the agent's reports.
"""
