"""Counts and logs of the queries that are answered.

It may import synthesis, message and settings. It must never know its callers, nor Prometheus:
`report` names and sums.
"""
