"""The sidecar's Corefile, typed and checked: everything is refused here or works."""

from nat64_dataplane.dns64.settings.model import (
    Acl,
    AclRule,
    Cache,
    Dns64,
    Forward,
    Listen,
    LogRule,
    Ptr,
    Reload,
    Server,
    ServeStale,
    Settings,
    Unprogrammed,
    Upstream,
)
from nat64_dataplane.dns64.settings.read import from_file, from_loaded, from_text

__all__ = [
    "Acl",
    "AclRule",
    "Cache",
    "Dns64",
    "Forward",
    "Listen",
    "LogRule",
    "Ptr",
    "Reload",
    "ServeStale",
    "Server",
    "Settings",
    "Unprogrammed",
    "Upstream",
    "from_file",
    "from_loaded",
    "from_text",
]
