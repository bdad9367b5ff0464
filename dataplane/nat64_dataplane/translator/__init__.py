"""The stateful NAT64 translator (RFC 6146): eBPF at tc, loaded and supervised from here."""
