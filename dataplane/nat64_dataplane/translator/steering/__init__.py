"""Router nodes: which gateway nodes serve, and which clients go to which.

All is pure but the prober, which has the sockets. It may import the schemas and what is below them;
never eBPF, nor how the node is set up: it says what the maps are to hold, and others write it.
"""
