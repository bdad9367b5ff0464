"""The dataplane: the NAT64 translator and the DNS64 sidecar, which know nothing of Kubernetes."""
