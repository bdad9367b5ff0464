"""The node and its kernel: many datagrams in one system call, random bytes, and the status file of
the node's translator.

It may import nothing of dns64. It must never know what a DNS message is.
"""
