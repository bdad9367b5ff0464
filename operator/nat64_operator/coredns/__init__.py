"""Pointing the cluster's CoreDNS at the sidecars, and back."""
