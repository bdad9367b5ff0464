"""The sidecar's Corefile, typed and checked: everything that is accepted here works.

It may import nat64_dataplane.corefile and, for names, message. It must never know how a setting is
carried out.
"""

from nat64_dataplane.dns64.settings.corefile_settings import from_file, from_loaded, from_text
from nat64_dataplane.dns64.settings.typed_settings import (
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
