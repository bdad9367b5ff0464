"""What people and Prometheus see: metrics and HTTP pages of a running sidecar, and `explain`.

It may import everything but the app. It must never change what it reports, and no answer ever needs
it.
"""
