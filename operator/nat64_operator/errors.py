"""The operator's errors. Each says for a person what was given, what is allowed, and where."""

from __future__ import annotations


class OperatorError(Exception):
    """The base of every error that the operator raises on purpose."""


class InvalidObjectError(OperatorError):
    """A custom resource that the API server stored but that can't be carried out."""


class UnsupportedCorefileError(OperatorError):
    """A cluster's Corefile has no line that could be edited safely. It was left as it is."""
