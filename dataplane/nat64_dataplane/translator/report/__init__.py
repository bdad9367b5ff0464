"""What people and Prometheus see: probes, metrics, and the commands that show and trace.

Imports the node and the data path, and only reads; must never change either, nor know how the agent
schedules its work.
"""
