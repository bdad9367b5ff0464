"""Questions in flight: each is resolved once for all clients that ask it, on the fast path or the
full one.

It may import everything below: upstream, cache, access, synthesis and their neighbours. It must
never know a listener or its sockets.
"""
