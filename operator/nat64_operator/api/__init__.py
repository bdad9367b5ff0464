"""The custom resources as typed, immutable models, and the conditions in their status."""
