"""Decide what stands on the small topics: the timestamp, the roles, each model's deployments, and their index.

They are small because they change seldom: a step of a rollout changes one model's deployments, and nothing that other nodes read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from hub.core.publish.metadata_expiry import RESIGN_SECONDS, life
from hub.signing.metadata_files import Stamp
from hub.signing.parsed_metadata import parsed
from hub.signing.role_lists import Standing
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.bundle import TrustBundle, TrustRoles, TrustTime
from schemas.deployment_index import DeploymentIndex, ModelSelectors, selectors_of
from schemas.deployments import Deployments, Envelope
from schemas.rollout import Rollout
from schemas.selectors import Selector
from schemas.topics import Topics

log = structlog.get_logger()

_ROLLOUTS_FILE = "rollouts.json"


@dataclass(frozen=True, slots=True)
class _Statement:
    """Hold a model's deployments as they stand."""

    stamp: Stamp | None
    envelope: bytes
    said: Deployments
    selectors: tuple[Selector, ...]


class DeploymentTopics:
    """Remember what stands on the small topics, so that only what changed is published."""

    def __init__(self, repository: Repository, topics: Topics) -> None:
        self._repository, self._topics = repository, topics
        self.roles: TrustRoles | None = None
        self._encoded = b""
        self._models: set[str] = set()
        self._warned: frozenset[str] = frozenset()
        self._versions = self._published = (0, 0)  # Versions of root and targets, as the index names them.
        # As read before, for a step changes one of many: envelopes with what they say, serials of rollouts, and the index.
        self._statements: dict[str, _Statement] = {}
        self._serials: dict[str, tuple[bytes, int]] = {}
        self._index: tuple[DeploymentIndex, bytes] | None = None

    def is_due(self, now: datetime) -> bool:
        """Return whether time alone changes what is to stand on the topics."""
        return self.roles is not None and now >= _signed_at(self.roles, plus_seconds=RESIGN_SECONDS)

    def payloads(self, trust: TrustBundle, standing: Mapping[str, Standing], *, now: datetime) -> Mapping[str, bytes]:
        """Return what is to stand on which topic; an empty payload clears one. `standing` has every model of the fleet.

        Nothing, while some rollout has no deployments, or is newer than them: nodes that find a timestamp alone leave the topic that has
        the rollouts. Without any rollout there is something all the same: how else would nodes hear that their only model was removed?
        """
        self._statements = {model: one for model, each in standing.items() if (one := self._statement(model, each)) is not None}
        lacking = frozenset(model for model, serial in self._serials_of(trust).items() if not self._covers(model, serial))
        if lacking and lacking != self._warned:
            log.warning("deployments.lacking", models=sorted(lacking), reason="nodes follow the rollouts on the topic of before")
        self._warned = lacking
        if lacking:
            return {}
        found = {self._topics.deploy(model): b"" for model in self._models - self._statements.keys()}
        found |= {self._topics.deploy(model): one.envelope for model, one in self._statements.items()}
        self._models |= self._statements.keys()
        roles = self._repository.trust_roles()
        if self.roles is None or _is_changed(roles, self.roles) or self.is_due(now):
            self.roles = roles
            self._encoded = codec.encode(roles)
        root, targets = parsed(roles.roots[-1]).signed, parsed(roles.targets).signed
        found[self._topics.trust_roles] = self._encoded
        found[self._topics.trust_time] = codec.encode(TrustTime(timestamp=self.roles.timestamp))
        self._versions = (root.version, targets.version)
        found[self._topics.deployed] = self._encoded_index()
        return found

    def _statement(self, model: str, standing: Standing) -> "_Statement | None":
        """Return a model's deployments, read anew where their file has changed."""
        known = self._statements.get(model)
        if known is not None and known.stamp == standing.deployments:
            return known
        raw = self._repository.deployments(model) if standing.deployments is not None else None
        if raw is None:
            return None
        said = codec.decode(Deployments, codec.decode(Envelope, raw).payload)
        return _Statement(standing.deployments, raw, said, selectors_of(said))

    def _serials_of(self, trust: TrustBundle) -> Mapping[str, int]:
        """Return the serials of the rollouts that earlier nodes read."""
        known = self._serials
        self._serials = {
            one.model: known[one.model]
            if one.model in known and known[one.model][0] == one.document
            else (one.document, codec.decode(Rollout, one.document).serial)
            for one in trust.documents
        }
        return {model: serial for model, (_, serial) in self._serials.items()}

    def _covers(self, model: str, serial: int) -> bool:
        """Return whether the deployments say all that a rollout does; a hub of before may have moved it since."""
        return model in self._statements and self._statements[model].said.serial >= serial

    def _encoded_index(self) -> bytes:
        selectors = (ModelSelectors(model, one.selectors) for model, one in sorted(self._statements.items()) if one.selectors)
        root, targets = self._versions
        index = DeploymentIndex.model_construct(root=root, targets=targets, models=tuple(selectors))
        if self._index is None or index != self._index[0]:
            self._index = index, codec.encode(index)
        return self._index[1]

    def names_newer_roles(self) -> bool:
        """Return whether the index names other versions of root and targets than the one that was published last."""
        return self._versions != self._published

    def published(self) -> None:
        """Take in that all that was to be published is."""
        self._published = self._versions


def _is_changed(found: TrustRoles, said: TrustRoles) -> bool:
    """Return whether anything but the rollouts role has changed: those roles change with every step of every rollout."""
    return (found.roots, found.targets, _listed(found)) != (said.roots, said.targets, _listed(said))


def _listed(roles: TrustRoles) -> dict[str, int]:
    meta = parsed(roles.snapshot).signed.meta
    return {name: one.version for name, one in meta.items() if name != _ROLLOUTS_FILE}


def _signed_at(roles: TrustRoles, *, plus_seconds: int) -> datetime:
    signed_until: datetime = parsed(roles.timestamp).signed.expires
    return signed_until - life("timestamp") + timedelta(seconds=plus_seconds)
