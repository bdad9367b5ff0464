"""What people and Prometheus see: the metrics of a running sidecar, and `explain` for one question.
It may import everything but the app. It must never change what it reports.
"""
