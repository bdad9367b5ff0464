"""The operator's errors. Each says for a person what was given, what is allowed, and where."""

from __future__ import annotations


class OperatorError(Exception):
    """The base of every error that the operator raises on purpose."""


class InvalidObjectError(OperatorError):
    """A custom resource that the API server stored but that cannot be carried out."""


class UnsupportedCorefileError(OperatorError):
    """A Corefile that has no line which could be edited safely. It is left as it is."""


class UnsupportedUpstreamsError(UnsupportedCorefileError):
    """The sidecars can't ask CoreDNS's upstreams as CoreDNS does."""
