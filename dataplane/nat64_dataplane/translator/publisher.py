"""What an agent says about its node: the status file, and the log of what changes in it."""

from __future__ import annotations

import logging
import time

from msgspec.structs import replace

from nat64_dataplane.translator.advertise.advertiser import Advertiser
from nat64_dataplane.translator.node.actions import Action, Apply, Attach, Detach
from nat64_dataplane.translator.node.reconciler import Settled
from nat64_dataplane.translator.node_warning import NodeWarning, ordered
from nat64_dataplane.translator.report.agent_state import AgentState
from nat64_dataplane.translator.run_directory import RunDir, Status

log = logging.getLogger(__name__)


class Publisher:
    """Writes what the agent's state has come to."""

    def __init__(self, state: AgentState, run_dir: RunDir, advertiser: Advertiser) -> None:
        self._state = state
        self._run_dir = run_dir
        self._advertiser = advertiser

    def settled(self, settled: Settled) -> None:
        """A pass has gone well."""
        if self._state.settled:
            for action in settled.actions:
                self._count_repair(action)
        self._state.settled = True
        self._note_warnings(ordered((*settled.warnings, *self._advertiser.warnings)))
        if self._state.config.is_router:
            self.steering()
            return
        uplinks = ", ".join(uplink.name for uplink in settled.view.uplinks)
        pool = {each.address for each in settled.view.pool}
        addresses = str(min(pool)) + (f" and {len(pool) - 1} more" if len(pool) > 1 else "")
        self.publish(
            f"Programmed: {self._state.config.prefix} translates to {addresses} over {uplinks}",
            programmed=True,
        )

    def steering(self) -> None:
        """On a router node: to how many gateway nodes packets go."""
        state = self._state
        if not (state.settled and state.config.is_router):
            return
        total, serving = len(state.gateways), state.serving_gateways
        if serving:
            some = f"{serving} of {total} gateway nodes"
            self.publish(f"Programmed: {state.config.prefix} goes to {some}", programmed=True)
        else:
            why = f"none of {total} gateway nodes serves" if total else "no gateway node is known"
            self.publish(f"NoGateway: {why}", programmed=False)

    def _count_repair(self, action: Action) -> None:
        if isinstance(action, Apply):
            log.info("the node's links or addresses changed: config applied again")
            return
        if isinstance(action, Attach | Detach) and action.hook.direction == "offload":
            log.info("pods' links changed: %s", action)
            return
        log.info("repaired: %s", action)
        kind = type(action).__name__
        self._state.repairs[kind] = self._state.repairs.get(kind, 0) + 1

    def _note_warnings(self, found: tuple[NodeWarning, ...]) -> None:
        before = {warning.reason for warning in self._state.warnings}
        for warning in found:
            if warning.reason not in before:
                log.warning("%s: %s; %s", warning.reason, warning.message, warning.remedy)
        for reason in sorted(before - {warning.reason for warning in found}):
            log.info("%s: no longer", reason)
        self._state.warnings = found

    def publish(self, reason: str, *, programmed: bool) -> None:
        """Replace the status, and say so in the log where it is another."""
        config = self._state.config
        status = Status(
            prefix=str(config.prefix),
            programmed=programmed,
            reason=reason,
            config_hash=config.content_hash,
            since=time.time(),
            warnings=self._state.warnings,
            advertised=self._advertiser.advertised,
            role=config.topology.role.value if config.topology else "",
            gateways=tuple(each.status for each in self._state.gateways),
        )
        if status.same_as(self._state.status) and self._run_dir.status_path.exists():
            return
        if status.same_state(self._state.status):
            status = replace(status, since=self._state.status.since)
        else:
            log.log(logging.INFO if programmed else logging.WARNING, "%s", reason)
        self._state.status = status
        try:
            self._run_dir.write_status(status)
        except OSError as error:
            log.error("can't write %s: %s", self._run_dir.status_path, error.strerror)
