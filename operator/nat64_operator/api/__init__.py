"""The custom resources as typed, immutable models, and the conditions in their status.

Imports the data plane's config schema and nothing else of the operator but its errors. It never
knows manifests, the API server or what runs in a cluster.
"""
