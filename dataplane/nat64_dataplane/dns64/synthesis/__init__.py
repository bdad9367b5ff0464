"""The rules of RFC 6147 and their neighbours (ipv4only.arpa, reverse names), as pure functions.

It may import message and settings. It must never know a socket, a clock, the cache or a client's
address.
"""
