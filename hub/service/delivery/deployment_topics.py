"""Decide what stands on the small topics: the timestamp, the roles, each model's deployments, and their index.

They are small because they change seldom: a step of a rollout changes one model's deployments, and nothing that other nodes read.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from hub.core.publish.metadata_expiry import RESIGN_SECONDS, life
from hub.signing.parsed_metadata import parsed
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.bundle import TrustBundle, TrustRoles, TrustTime
from schemas.deployment_index import index_of
from schemas.deployments import Deployments, Envelope
from schemas.rollout import Rollout
from schemas.topics import Topics

log = structlog.get_logger()

_ROLLOUTS_FILE = "rollouts.json"


class DeploymentTopics:
    """Remember what stands on the small topics, so that only what changed is published."""

    def __init__(self, repository: Repository, topics: Topics) -> None:
        self._repository, self._topics = repository, topics
        self.roles: TrustRoles | None = None
        self._encoded = b""
        self._models: set[str] = set()
        self._warned: frozenset[str] = frozenset()
        self._versions = self._published = (0, 0)  # Versions of root and targets, as the index names them.
        self._read: dict[bytes, Deployments] = {}  # Statements as they were read before: a step changes one of many.

    def is_due(self, now: datetime) -> bool:
        """Return whether time alone changes what is to stand on the topics."""
        return self.roles is not None and now >= _signed_at(self.roles, plus_seconds=RESIGN_SECONDS)

    def payloads(self, trust: TrustBundle, *, now: datetime) -> Mapping[str, bytes]:
        """Return what is to stand on which topic; an empty payload clears one.

        Nothing, while some rollout has no deployments, or is newer than them: nodes that find a timestamp alone leave the topic that has
        the rollouts. Without any rollout there is something all the same: how else would nodes hear that their only model was removed?
        """
        envelopes = {model: raw for model in self._repository.models() if (raw := self._repository.deployments(model)) is not None}
        self._read = {
            raw: self._read.get(raw) or codec.decode(Deployments, codec.decode(Envelope, raw).payload) for raw in envelopes.values()
        }
        statements = {model: self._read[raw] for model, raw in envelopes.items()}
        lacking = frozenset(one.model for one in trust.documents if not _covers(statements.get(one.model), one.document))
        if lacking and lacking != self._warned:
            log.warning("deployments.lacking", models=sorted(lacking), reason="nodes follow the rollouts on the topic of before")
        self._warned = lacking
        if lacking:
            return {}
        found = {self._topics.deploy(model): b"" for model in self._models - envelopes.keys()}
        found |= {self._topics.deploy(model): raw for model, raw in envelopes.items()}
        self._models |= envelopes.keys()
        roles = self._repository.trust_roles()
        if self.roles is None or _is_changed(roles, self.roles) or self.is_due(now):
            self.roles = roles
            self._encoded = codec.encode(roles)
        root, targets = parsed(roles.roots[-1]).signed, parsed(roles.targets).signed
        found[self._topics.trust_roles] = self._encoded
        found[self._topics.trust_time] = codec.encode(TrustTime(timestamp=self.roles.timestamp))
        self._versions = (root.version, targets.version)
        found[self._topics.deployed] = codec.encode(index_of(statements.values(), root=root.version, targets=targets.version))
        return found

    def names_newer_roles(self) -> bool:
        """Return whether the index names other versions of root and targets than the one that was published last."""
        return self._versions != self._published

    def published(self) -> None:
        """Take in that all that was to be published is."""
        self._published = self._versions


def _covers(statement: Deployments | None, rollout: bytes) -> bool:
    """Return whether the deployments say all that a rollout does; a hub of before may have moved it since."""
    return statement is not None and statement.serial >= codec.decode(Rollout, rollout).serial


def _is_changed(found: TrustRoles, said: TrustRoles) -> bool:
    """Return whether anything but the rollouts role has changed: those roles change with every step of every rollout."""
    return (found.roots, found.targets, _listed(found)) != (said.roots, said.targets, _listed(said))


def _listed(roles: TrustRoles) -> dict[str, int]:
    meta = parsed(roles.snapshot).signed.meta
    return {name: one.version for name, one in meta.items() if name != _ROLLOUTS_FILE}


def _signed_at(roles: TrustRoles, *, plus_seconds: int) -> datetime:
    signed_until: datetime = parsed(roles.timestamp).signed.expires
    return signed_until - life("timestamp") + timedelta(seconds=plus_seconds)
