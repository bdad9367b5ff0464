"""What all tests share."""

from hypothesis import settings

# No test depends on the machine's speed: an example may take as long as it needs.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
