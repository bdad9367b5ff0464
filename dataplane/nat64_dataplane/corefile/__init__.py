"""Corefiles: read, expand, edit and write the configuration language of CoreDNS.

The package knows the language (tokens, blocks, stanzas, `import`, environment variables). It
imports the errors that all share, and must never know a plugin or Kubernetes. It has two
readers with one grammar:

- `parse` keeps every position, so that an edit changes the bytes it means to and no others. The
  operator edits a cluster's Corefile with it.
- `load` follows imports and variables, as CoreDNS does before a plugin sees its stanza. The
  DNS64 sidecar reads its own Corefile with it.
"""

from nat64_dataplane.corefile.address import Address, parse_key
from nat64_dataplane.corefile.edit import (
    Edit,
    apply,
    content_hash,
    insert_after,
    insert_into,
    newline_of,
    quote,
    remove,
    render,
    replace,
)
from nat64_dataplane.corefile.errors import CorefileError
from nat64_dataplane.corefile.expand import Loaded, expand, load, read_files
from nat64_dataplane.corefile.lexer import Token, tokenize
from nat64_dataplane.corefile.parser import parse
from nat64_dataplane.corefile.tree import Corefile, ServerBlock, Snippet, Stanza

__all__ = [
    "Address",
    "Corefile",
    "CorefileError",
    "Edit",
    "Loaded",
    "ServerBlock",
    "Snippet",
    "Stanza",
    "Token",
    "apply",
    "content_hash",
    "expand",
    "insert_after",
    "insert_into",
    "load",
    "newline_of",
    "parse",
    "parse_key",
    "quote",
    "read_files",
    "remove",
    "render",
    "replace",
    "tokenize",
]
