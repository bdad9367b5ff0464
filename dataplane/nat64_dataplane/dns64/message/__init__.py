"""DNS messages as bytes: names, queries, replies, records moved from one to the other, and answers
that fit every client.

It may import nothing else of dns64. It must never know DNS64, the cache, or a socket.
"""
