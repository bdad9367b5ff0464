"""The DNS64 sidecar (RFC 6147), configured by a Corefile."""
