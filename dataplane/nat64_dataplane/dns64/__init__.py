"""The DNS64 sidecar (RFC 6147), configured by a Corefile. Its sub-packages import downwards only:
report, frontend, resolver, then cache, upstream and access, then instrumentation, synthesis,
settings and host, and message last. It may import what the dataplane shares, such as corefile. It
must never know Kubernetes, nor the translator but for its status file.
"""
