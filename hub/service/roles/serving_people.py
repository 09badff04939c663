"""The role `web`: devices enrol, and alerts are delivered to receivers. The API runs in a thread beside it (hub/web/server.py)."""

from hub.database.drift_queries import Findings
from hub.service.alerts.dispatch import Hooks
from hub.service.enrol.enrolment_service import Enrolling
from hub.service.roles.shared_parts import Common, Role
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_evidence import Evidence
from hub.signing.tuf_repository import Repository


class ServingPeople(Role):
    """Run them."""

    def __init__(self, common: Common, enrolling: Enrolling) -> None:
        self._enrolling = enrolling
        self._hooks = Hooks(
            common.directory,
            common.settings,
            store=common.store,
            evidence=lambda: Evidence(  # with a view of releases of its own: it is for another thread
                Findings(common.store.database),
                Releases(Repository(common.directory / "trust"), common.blocks),
                cohort_nodes_min=common.settings.cohort_nodes_min,
            ),
            clock=common.wall,
        )

    def begin(self) -> None:
        """Listen, and begin to deliver.

        Raises:
            Refused: the enrolment endpoint's port is taken.
        """
        self._enrolling.start()
        self._hooks.start()

    def leave(self) -> None:
        """End both."""
        self._enrolling.stop()
        self._hooks.stop()
