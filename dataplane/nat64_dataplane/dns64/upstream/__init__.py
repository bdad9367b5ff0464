"""The `forward` stanza: groups of servers, their health, and UDP, TCP and TLS to each.

It may import instrumentation, host, message and settings. It must never know DNS64, the cache or
the clients.
"""
