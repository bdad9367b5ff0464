"""Everything that waits or does I/O: the API server, kopf's watches, DNS probes, the Lease, HTTP.

Imports all packages below it; only `cli` imports it. It decides nothing and must never know the
reason for an action: it reads a `World`, and carries out the plan that `reconcile` makes of it.
"""
