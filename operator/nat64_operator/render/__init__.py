"""Manifests and files from models: every function is pure, and equal input gives equal text.

Imports `api`, `settings` and the data plane's schemas. It never knows what exists in the cluster
now, nor the API server.
"""
