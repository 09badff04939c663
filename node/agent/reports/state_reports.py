"""Report the node's state to the hub: when something changed, and at least as often as the site's file says."""

from collections.abc import Callable
from typing import Literal

from fleetcast.build_version import software
from node.agent.activation.slots import Slots
from node.agent.delivery.byte_quota import ByteQuota
from node.agent.delivery.transfers import Delivery
from node.agent.reports.bounded_state import bounded
from node.agent.reports.standing_findings import StandingFindings
from node.agent.telemetry.windows import Telemetry
from node.agent.trust.trust_state import TrustState
from node.broker.mqtt import NodeLink
from node.core.settings.effective_settings import EffectiveSettings
from node.core.trust.clock import NEVER, MonotonicSeconds, WallClock
from node.enrol.identity import Identity
from node.settings import NodeSettings
from schemas.disclosure import leaving
from schemas.limits import PACKET_BYTES_MAX
from schemas.state import REPORT_SECONDS, Profile, SettingsInForce, State

FINDINGS_SECONDS = 5.0  # Between two states because of findings: a hostile broker must not spend our bytes.
PROGRESS_SECONDS = 30.0  # Between two states of a node that is fetching.


class StateReports:
    """Make the state, and publish it."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        link: NodeLink,
        trust_state: TrustState,
        slots: Slots,
        delivery: Delivery,
        quota: ByteQuota,
        telemetry: Telemetry,
        findings: StandingFindings,
        identity: Callable[[], Identity],
        profile: Callable[[], Profile],
        in_force: Callable[[], EffectiveSettings],
        session: Callable[[], int],
        wall: WallClock,
    ) -> None:
        self._settings, self._link, self._trust_state, self._slots = settings, link, trust_state, slots
        self._delivery, self._quota, self._telemetry, self._findings = delivery, quota, telemetry, findings
        self._identity, self._profile, self._in_force, self._session = identity, profile, in_force, session
        self._wall = wall
        self._reported: State | None = None
        self._reported_at = NEVER

    def connected(self) -> None:
        """Report again, whatever was reported over an earlier connection."""
        self._reported = None

    def tick(self, now: MonotonicSeconds) -> None:
        """Publish the state where that is due."""
        pause = min(PROGRESS_SECONDS, self._settings.state_seconds) if self._delivery.fetching else self._settings.state_seconds
        found = self._findings.changed and now - self._reported_at >= FINDINGS_SECONDS
        if not self._slots.changed and not found and self._reported is not None and now - self._reported_at < pause:
            return
        # Counts of this site's rows stay here, and neither do they decide when a state is sent.
        state = leaving(self.state("online"))
        if (
            self._reported is None
            or state.model_copy(update={"at": self._reported.at}) != self._reported
            or now - self._reported_at >= self._settings.state_seconds
        ):
            self._link.publish_state(state)
            self._reported, self._reported_at = state, now
        self._slots.changed = self._findings.changed = False

    def state(self, status: Literal["online", "disconnected"]) -> State:
        """Return the state of now, with what stays on the device."""
        view, in_force = self._trust_state.view, self._in_force()
        seconds = self._settings.state_seconds
        hub_reads = view.hub_reads.get(State.schema_name, 0) if view is not None else 0
        fields = {
            "node": self._settings.id,
            "session": max(self._session(), 1),
            "status": status,
            "at": int(self._wall()),
            "software": software(),
            "public_key": self._identity().public_key,
            "cohort": in_force.cohort,
            "link": self._quota.link,
            "profile": self._profile(),
            "packet_bytes_max": PACKET_BYTES_MAX,
            "root_version": view.root_version if view else 0,
            "timestamp_version": view.timestamp_version if view else 0,
            "stale": self._trust_state.stale(),
            "telemetry": self._telemetry.budget(self._wall()) if in_force.telemetry else None,
            "findings": self._findings.all() if hub_reads >= 1 else None,
            "report_seconds": min(seconds, 2**31) if hub_reads >= 1 and seconds != REPORT_SECONDS else None,
            "settings": reported(in_force) if hub_reads >= 2 else None,
        }
        return bounded(fields, slots=self._slots.report_of(), counts=hub_reads >= 3)


def reported(in_force: EffectiveSettings) -> SettingsInForce | None:
    """Return what a state reports of the hub's settings; nothing, where the hub has set none."""
    if not in_force.serial:
        return None
    return SettingsInForce(serial=in_force.serial, display_name=in_force.display_name, ignored=in_force.ignored)
