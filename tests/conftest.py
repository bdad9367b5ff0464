"""What all tests share."""

import os

from hypothesis import settings

# No test depends on the machine's speed: an example may take as long as it needs. A run repeats the
# examples of the last one, so that what fails is a matter of the change; `make test-random` draws
# new ones.
settings.register_profile(
    "any-machine", deadline=None, derandomize="NAT64_RANDOM_EXAMPLES" not in os.environ
)
settings.load_profile("any-machine")
