"""What is counted and logged while queries are answered.
It may import synthesis, message and settings. It must never know who counts, nor Prometheus: names
and sums are for `report`.
"""
