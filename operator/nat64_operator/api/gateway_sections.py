"""Sections of a NAT64Gateway's spec that serve others than names: hosts outside, and literals."""

from __future__ import annotations

import enum
from ipaddress import IPv6Network

import msgspec

from nat64_dataplane import config
from nat64_operator.api.meta import Spec


class Advertise(Spec, frozen=True, kw_only=True):
    """The links on which hosts are told of the prefix."""

    interfaces: tuple[str, ...]
    interval_seconds: int = 600
    route_lifetime_seconds: int | None = None

    def config(self) -> config.Advertise:
        """As the translator's config has it. Raises ValueError, also for values that the API server
        would refuse.
        """
        values = {
            "interfaces": self.interfaces,
            "interval": self.interval_seconds,
            "routeLifetime": self.route_lifetime_seconds,
        }
        try:
            return msgspec.convert(values, config.Advertise)
        except msgspec.ValidationError as error:
            raise ValueError(f"advertise: {error}") from error


class ClatMode(enum.Enum):
    """Whose IPv4 literals work."""

    DISABLED = "Disabled"
    PODS = "Pods"


class Clat(Spec, frozen=True, kw_only=True):
    """A CLAT in each IPv6-only pod, and the prefix that it sends to."""

    mode: ClatMode = ClatMode.DISABLED
    prefix: str = "64:ff9b:1:c1a7::/96"

    def config(self) -> config.Clat | None:
        """The section of the translator's config. Raises ValueError."""
        if self.mode is ClatMode.DISABLED:
            return None
        try:
            return config.Clat(prefix=IPv6Network(self.prefix))
        except ValueError as error:
            raise ValueError(f"clat.{error}") from error
