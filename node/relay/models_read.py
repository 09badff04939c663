"""Choose the models whose manifests a relay reads: those of the index of deployments, or of the topic of hubs before deployments."""

import structlog

from node.core.trust.clock import NEVER, MonotonicSeconds
from node.core.trust.hub_topics import LOOK_SECONDS_MIN, QUIET_SECONDS
from node.relay.connections import RelayLink
from node.relay.library import MODELS_MAX
from schemas.bundle import TrustBundle
from schemas.deployment_index import DeploymentIndex

log = structlog.get_logger()


class ModelsRead:
    """Read the topics of a site's models. Nobody has verified either list: it only says what to look at."""

    def __init__(self, link: RelayLink) -> None:
        self._link = link
        self._names: set[str] = set()
        self._index_mid: int | None = None
        self._granted_at: MonotonicSeconds | None = None
        self._has_index = self._reads_bundle = False
        self._looked_at = NEVER

    def connected(self, *, session_present: bool) -> None:
        """Subscribe; a broker that kept the session sends again only what is new to it."""
        self._index_mid = self._link.read([self._link.topics.deployed], only_if_new=session_present)
        if self._reads_bundle:
            self._link.subscribe_trust(only_if_new=session_present)
        self._link.subscribe_models(sorted(self._names), only_if_new=session_present)

    def granted(self, mid: int, now: MonotonicSeconds) -> None:
        """Take in that the broker has granted a subscription."""
        if mid == self._index_mid:
            self._granted_at = now

    def tick(self, now: MonotonicSeconds) -> None:
        """Read the bundle of hubs before deployments where no index comes."""
        if not self._has_index and not self._reads_bundle and self._granted_at is not None and now - self._granted_at >= QUIET_SECONDS:
            self._read_bundle()

    def lacks_a_release(self, now: MonotonicSeconds) -> None:
        """Take in that nodes want what no known model has: the index may be an earlier hub's, and the bundle newer."""
        if self._has_index and not self._reads_bundle and now - self._looked_at >= LOOK_SECONDS_MIN:
            self._looked_at = now
            self._read_bundle()

    def take_index(self, index: DeploymentIndex) -> None:
        """Read the models of an index; a hub that says one needs no bundle."""
        self._has_index = True
        self._add({one.model for one in index.models})
        self._leave_bundle()

    def take_bundle(self, bundle: TrustBundle) -> None:
        """Read the models that have rollouts, and leave the bundle where it names no other than the index."""
        is_more = self._add({one.model for one in bundle.documents})
        if self._has_index and not is_more:
            self._leave_bundle()

    def _add(self, names: set[str]) -> bool:
        fresh = sorted(names - self._names)[: max(0, MODELS_MAX - len(self._names))]
        self._names |= set(fresh)
        self._link.subscribe_models(fresh)
        return bool(fresh)

    def _read_bundle(self) -> None:
        log.info("trust.subscribed", topic=self._link.topics.trust)
        self._reads_bundle = True
        self._link.subscribe_trust(only_if_new=False)

    def _leave_bundle(self) -> None:
        if self._reads_bundle:
            log.info("trust.unsubscribed", topic=self._link.topics.trust)
            self._reads_bundle = False
            self._link.leave([self._link.topics.trust])
