"""The operator: NAT64Gateway and DNS64Policy in, DaemonSets, ConfigMaps and Corefiles out."""
