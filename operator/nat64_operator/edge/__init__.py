"""Where the operator touches the cluster: the API server, DNS, and kopf's watches. Thin."""
