"""The agent's own state: its loop writes it, probes and metrics read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from nat64_dataplane.config import Config
from nat64_dataplane.members import GatewayEntry
from nat64_dataplane.translator.advertise.counters import Counters
from nat64_dataplane.translator.node_warning import NodeWarning
from nat64_dataplane.translator.run_directory import GatewayStatus, Status
from nat64_dataplane.translator.steering.health import State
from nat64_dataplane.translator.steering.statistics import Statistics


class SweepResult(Protocol):
    """The part of `Datapath.sweep`'s result that is counted."""

    @property
    def removed_sessions(self) -> int:
        """Expired sessions removed."""

    @property
    def removed_bindings(self) -> int:
        """Expired BIB entries removed."""


@dataclass(slots=True)
class SweepTotals:
    """Sums over all sweeps since the agent started."""

    runs: int = 0
    seconds: float = 0
    removed_sessions: int = 0
    removed_bindings: int = 0

    def add(self, result: SweepResult, took: float) -> None:
        """Count one sweep that took so many seconds."""
        self.runs += 1
        self.add_rest(result, took)

    def add_rest(self, result: SweepResult, took: float) -> None:
        """Count what was removed after a sweep, of that which it had left."""
        self.seconds += took
        self.removed_sessions += result.removed_sessions
        self.removed_bindings += result.removed_bindings


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """One gateway node, as a router node sees it."""

    entry: GatewayEntry
    state: State
    serves: bool
    """Whether packets may go to it."""
    why: str
    statistics: Statistics

    @property
    def status(self) -> GatewayStatus:
        """As the status file has it."""
        return GatewayStatus(
            node=self.entry.node,
            address=str(self.entry.address),
            weight=self.entry.weight,
            state=self.state.value.lower(),
            why=self.why,
        )


@dataclass(slots=True)
class AgentState:
    """One agent's state."""

    config: Config
    status: Status
    settled: bool = False
    """Whether the last pass left the node as the config says."""
    config_error: str = ""
    """Why the file's content is not in use; empty if it is."""
    warnings: tuple[NodeWarning, ...] = ()
    """Those of the last pass that went well."""
    attached_by: str = ""
    notrack_error: str = ""
    last_pass: float = 0
    """Monotonic seconds at which the last pass ended, well or not."""
    repairs: dict[str, int] = field(default_factory=dict)
    """How many repairs there were, by what was done."""
    failures: int = 0
    sweeps: SweepTotals = field(default_factory=SweepTotals)
    advertisements: Counters = field(default_factory=Counters)
    gateways: tuple[GatewayReport, ...] = ()
    """On a router node."""
    failovers: int = 0
    """How often clients had to be given to other gateway nodes."""

    @property
    def serving_gateways(self) -> int:
        """How many gateway nodes carry packets of this router node."""
        return sum(each.serves for each in self.gateways)

    @property
    def unready(self) -> str:
        """Why the agent is not ready; empty if packets are translated by the file's config."""
        if self.config_error:
            return f"ConfigRefused: {self.config_error}"
        if self.settled and self.config.is_router and not self.serving_gateways:
            return self.status.reason
        if self.settled:
            return ""
        # A predecessor's status may say that packets are translated, and they are.
        return "Starting: not checked yet" if self.status.programmed else self.status.reason
