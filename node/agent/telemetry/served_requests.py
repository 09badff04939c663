"""Pass what the serving thread says to telemetry: requests that it answered, and counts of right and wrong answers from programs."""

import queue
from contextlib import suppress
from random import Random

from node.agent.events import Incoming
from node.agent.telemetry.windows import Telemetry
from node.core.activation.effective_parameters import EffectiveParameters
from node.serving.accuracy_route import LabelsReported
from node.serving.loaded_model import Observation
from schemas.errors import Unreachable
from schemas.manifest import Manifest


class ServedRequests:
    """Sample requests by each release's share. `observe` and `labels_reported` are called by the serving thread, the rest by the loop's."""

    def __init__(self, telemetry: Telemetry, sampling: Random, inbox: queue.Queue[Incoming]) -> None:
        self._telemetry, self._sampling, self._inbox = telemetry, sampling, inbox
        self._shares: dict[bytes, float] = {}  # The share of a release's requests that telemetry counts.
        self._leaving = False

    def serving_changed(self, digest: bytes, manifest: Manifest, parameters: EffectiveParameters) -> None:
        """Count a release's requests from now on, by its parameters."""
        self._shares[digest] = parameters.telemetry_share
        self._telemetry.watch(digest, manifest)

    def observe(self, seen: Observation) -> None:
        """Count one served request."""
        if not self._telemetry.sends:
            return
        self._telemetry.labels.answered(seen)
        if self._sampling.random() < self._shares.get(seen.digest, 1.0):
            self._telemetry.observe(seen)

    def labels_reported(self, event: LabelsReported) -> None:
        """Take counts from a program, also when the loop has ended and nobody looks into the inbox."""
        self._inbox.put(event)
        if self._leaving:
            self._turn_labels_away()

    def leave(self) -> None:
        """Refuse the programs that still wait, and those that come: they would keep the server from stopping."""
        self._leaving = True
        self._turn_labels_away()

    def _turn_labels_away(self) -> None:
        with suppress(queue.Empty):
            while True:
                event = self._inbox.get_nowait()
                if isinstance(event, LabelsReported) and event.done.set_running_or_notify_cancel():
                    event.done.set_exception(Unreachable("the node is stopping; say it again, with the same id"))
