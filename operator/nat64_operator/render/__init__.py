"""Models to manifests: pure functions from parsed objects to what is applied."""
