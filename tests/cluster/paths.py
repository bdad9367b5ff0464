"""Where the harness keeps things.

Everything that is slow to make goes into the cache and survives; everything that belongs to a
running cluster goes into the state folder and is gone after `down`.
"""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
CACHE = Path(os.environ.get("NAT64_CACHE", "/var/cache/nat64-operator"))
STATE = Path("/var/lib/nat64-cluster")
