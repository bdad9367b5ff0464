"""`kubectl nat64`: what the product does in a cluster, and why it doesn't, with the user's rights.

Objects are read from the API server, nodes through `exec` into the agents' pods. Gathering is one
thin edge (`cluster`, `gather`); judging and writing are pure.
"""
