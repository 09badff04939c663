"""Publishes what was signed, retained: trust, models and their deployments; and again when the broker forgot or another client wrote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from securesystemslib.signer import Signer

from hub.core.publish.metadata_expiry import renewal
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import OWN_KINDS, HubLink, OwnTopic
from hub.service.delivery.deployment_topics import DeploymentTopics
from hub.service.delivery.retained_topic_check import judge_deployments, judge_index, judge_model, judge_trust
from hub.service.delivery.unsigned_alerts import UnsignedAlerts
from hub.service.steady_clock import SteadyClock
from hub.signing import deployment_statements
from hub.signing.key_places import ONLINE
from hub.signing.role_lists import Standing
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.analytics_messages import Alert
from schemas.bundle import ModelBundle, TrustBundle, TrustRoles, TrustTime
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import MANIFESTS_PER_MODEL_MAX
from schemas.names import sha256

log = structlog.get_logger()

NEWEST_KEPT = 2  # releases that are announced even when no deployment names them
HEAL_SECONDS = 2.0  # between two corrections of one topic: a program that keeps writing there is not given a race
ECHO_SECONDS = 30.0  # a broker without "no local" sends us what we just published; past this, our own older messages are a replay
LOOK_SECONDS = 60.0  # the repository is asked so often whether something is to be signed again, even when nobody touched it
EXPIRY_LOOK_SECONDS = 3600.0
KEY_EXPIRING = "key_expiring"  # The kind of the alert, whose code is how urgent it is.
PUBLISH_SECONDS = 0.2  # A turn's share for giving the broker what is new.


@dataclass(frozen=True, slots=True)
class Signers:
    """Hold the hub's online keys."""

    snapshot: Signer
    timestamp: Signer
    rollouts: Signer


class Announcer:
    """Keep the hub's own retained topics published."""

    def __init__(
        self,
        *,
        repository: Repository,
        link: HubLink,
        notes: Notes,
        signers: Signers,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        held: Callable[[], Mapping[str, Sequence[bytes]]] = dict,
        announced: Callable[[str], None] = lambda model: None,
    ) -> None:
        self._announced = announced  # Hears of each model whose deployments the broker was given.
        self._held = held  # The releases of each model that nodes have and may go back to, the commonest first.
        self._digests: dict[tuple[str, str], bytes] = {}
        self._repository, self._link, self._notes, self._signers = repository, link, notes, signers
        self._wall, self._monotonic = wall, monotonic
        self._generation = -1
        self._vouched: int | None = None  # The repository's generation for which trust and index were made.
        self._seen: dict[str, tuple[Standing, tuple[bytes, ...]]] = {}  # For what each model's bundle was made.
        self._looked_at = self._expiry_looked_at = float("-inf")
        self._warned: dict[str, str] = {}
        self._is_clock_doubted = False
        self._unsigned = UnsignedAlerts(repository, notes, wall=wall, monotonic=monotonic)
        self._trust: TrustBundle | None = None
        self._small = DeploymentTopics(repository, link.topics)
        self._models: dict[str, ModelBundle] = {}
        self._cleared: set[str] = set()  # Removed models whose topics this process has cleared.
        self._payloads: dict[str, bytes] = {}  # topic to what is to stand there
        self._unpublished: set[str] = set()  # topics on which it may not stand yet
        self._echoes: dict[bytes, float] = {}
        self._healed: dict[str, float] = {}
        self._heal: set[str] = set()

    def tick(self, *, online: bool) -> None:
        """Sign what is new, and publish what is to be published."""
        now = self._monotonic()
        self._warn_of_clock()
        self._unsigned.tick()  # Before what may be refused for want of a signature.
        is_thorough = now - self._looked_at >= LOOK_SECONDS
        # Read before we look: what is signed while we do is noticed at the next tick, and so is, once, what we sign ourselves.
        generation = self._repository.generation(thorough=is_thorough)
        if is_thorough or generation != self._generation:
            self._looked_at, self._generation = now, generation
            self._vouch()
        if now - self._expiry_looked_at >= EXPIRY_LOOK_SECONDS:
            self._expiry_looked_at = now
            self._warn_of_expiry()
        for topic in [topic for topic in self._heal if now - self._healed.get(topic, float("-inf")) >= HEAL_SECONDS]:
            self._heal.discard(topic)
            self._healed[topic] = now
            self._unpublished.add(topic)
        if online:
            self._publish(now)

    @property
    def has_signed(self) -> bool:
        """Return whether it has anything to compare with what comes on the hub's topics."""
        return self._trust is not None

    def forgot(self) -> None:
        """Publish everything again, since the broker has lost its memory."""
        self._unpublished = set(self._payloads)

    def guard(self, event: OwnTopic) -> None:
        """Check what came on a topic of ours: unless it is what we published, report why it is wrong, and publish ours again.

        Raises:
            Refused: it is not ours, or not our newest.
        """
        topic, payload, ours = event.message.topic, event.message.payload, self._payloads.get(event.message.topic)
        if payload == ours or (ours is None and not payload):
            return
        self._heal.add(topic)
        if self._monotonic() - self._echoes.get(payload, float("-inf")) < ECHO_SECONDS:
            return
        if event.model in self._cleared:
            log.info("own_topic.cleared", topic=topic)  # The model was removed while the hub or the broker was away.
            return
        refusal = self._judge(event.kind, event.model, payload)
        if event.message.retained and refusal.code in {Code.TRUST_ROLLBACK, Code.TRUST_MISMATCH}:
            log.info("own_topic.replaced", topic=topic, code=str(refusal.code))  # our own of before a restart
            return
        raise refusal

    def _judge(self, kind: str, model: str | None, payload: bytes) -> Refused:
        if self._trust is None:
            raise ValueError("nothing is judged before anything is signed: ask has_signed first")
        if model is None:
            return self._judge_of_fleet(kind, payload, self._trust)
        if kind == "deploy":
            return judge_deployments(payload, self._payloads.get(self._link.topics.deploy(model), b""), model, self._trust)
        if model not in self._models:
            return Refused(Code.TRUST_NOT_LISTED, f"somebody announces model {model!r}, which has no release")
        return judge_model(payload, self._models[model], self._trust)

    def _judge_of_fleet(self, kind: str, payload: bytes, trust: TrustBundle) -> Refused:
        match kind:
            case "trust-time":
                return judge_trust(payload, self._small.roles or trust, kind=TrustTime, what="timestamp")
            case "trust-roles":
                return judge_trust(payload, self._small.roles or trust, kind=TrustRoles, what="set of roles")
            case "deployed":
                return judge_index(payload)
            case _:
                return judge_trust(payload, trust)

    # Signing

    def _vouch(self) -> None:
        now = datetime.fromtimestamp(self._wall(), UTC)
        for model in self._repository.drop_rollouts(rollouts=self._signers.rollouts, now=now):
            log.info("rollout.dropped", model=model)
        self._repository.renew_rollouts(rollouts=self._signers.rollouts, now=now)
        self._repository.refresh(snapshot=self._signers.snapshot, timestamp=self._signers.timestamp, now=now)
        generation, standing, held = self._repository.generation(), self._repository.standing(), self._held()
        found = {model: (one, tuple(held.get(model, ()))) for model, one in standing.items()}
        changed = [model for model, one in found.items() if one != self._seen.get(model)]
        if not changed and generation == self._vouched and not self._small.is_due(now):
            return
        self._clear(self._repository.removed_models())
        for model in changed:
            if self._announce(model, found[model][1]):
                self._seen[model] = found[model]
        self._seen = {model: one for model, one in self._seen.items() if model in found}
        trust = self._repository.trust_bundle(known=self._trust)
        if trust != self._trust:
            self._put(self._link.topics.trust, codec.encode(trust))
        self._trust = trust
        for topic, payload in self._small.payloads(self._trust, standing, now=now).items():
            self._put(topic, payload)
        self._vouched = generation

    def _announce(self, model: str, held: Sequence[bytes]) -> bool:
        """Make a model's bundle, and put it where it says something new; False where it is to be made again at the next look.

        A model that has no release yet has no bundle, and one whose files are damaged keeps the one that it has.
        """
        try:
            bundle = self._repository.model_bundle(model, self._current(model, held))
        except Refused as refusal:
            if refusal.code is not Code.RELEASE_UNKNOWN:
                log.warning("model.not_announced", model=model, code=str(refusal.code), reason=refusal.reason)
            return refusal.code is Code.RELEASE_UNKNOWN
        if bundle != self._models.get(model) and self._put(self._link.topics.model(model), codec.encode(bundle)):
            self._models[model] = bundle
            versions = [one.version for one in bundle.manifests]
            self._notes.event("release", f"model {model}: {', '.join(versions)} announced", model=model, versions=versions)
        return True

    def _clear(self, removed: Sequence[str]) -> None:
        """Have nothing retained for models that were removed, perhaps while the hub was away; the trust bundle is what tells nodes."""
        for model in set(removed) - self._cleared:
            for topic in (self._link.topics.model(model), self._link.topics.deploy(model)):
                self._payloads.pop(topic, None)
                self._unpublished.add(topic)
            if self._models.pop(model, None) is not None:
                self._notes.event("release", f"model {model} was removed, and is no longer announced", model=model)
        self._cleared = set(removed)

    def _current(self, model: str, held: Sequence[bytes]) -> Sequence[str]:
        """Return the releases that nodes may need, oldest first.

        The most important ones are those that a deployment names, then those that nodes have, so that each can go back to its own, then the
        newest.
        """
        known = self._repository.releases(model)
        by_digest = {self._digest(model, version): version for version in known}
        statement = deployment_statements.read(self._repository, model)
        deployments = statement.deployments.deployments if statement is not None else ()
        named = [release.version for one in deployments for release in (one.release, one.fallback) if release is not None]
        kept = [by_digest[digest] for digest in held if digest in by_digest]
        order = dict.fromkeys([*named, *kept, *reversed(known[-NEWEST_KEPT:])])
        needed = set([version for version in order if version in known][:MANIFESTS_PER_MODEL_MAX])
        return [version for version in known if version in needed]

    def _digest(self, model: str, version: str) -> bytes:
        if (model, version) not in self._digests:
            self._digests[model, version] = sha256(self._repository.manifest(model, version))
        return self._digests[model, version]

    def _put(self, topic: str, payload: bytes) -> bool:
        if self._payloads.get(topic) == payload:
            return False
        self._payloads[topic] = payload
        self._unpublished.add(topic)
        return True

    # Saying

    def _publish(self, now: float) -> None:
        # Roles first, for they are fetched when a model's bundle is newer; models before the trust bundle that vouches for them, so that a
        # node of before finds both; deployments before the index that points at them. But where the index names newer roles it comes right
        # after them: they may name other keys, and nodes are to fetch them before they judge what these keys have signed.
        kinds = [*OWN_KINDS]
        if self._small.names_newer_roles():
            kinds.remove("deployed")
            kinds.insert(kinds.index("trust-roles") + 1, "deployed")
        until = self._monotonic() + PUBLISH_SECONDS
        self._echoes = {payload: at for payload, at in self._echoes.items() if now - at < ECHO_SECONDS}
        for topic in sorted(self._unpublished, key=lambda one: (kinds.index(self._link.topics.parse(one).kind), one)):
            payload = self._payloads.get(topic, b"")  # empty: we have nothing to say there, so nothing is to stand there
            try:
                self._link.retain(topic, payload)
            except Unreachable as error:
                log.warning("announcement.failed", topic=topic, reason=str(error))
                return
            self._unpublished.discard(topic)
            self._echoes[payload] = now
            log.info("announcement.published", topic=topic, bytes=len(payload))
            if (address := self._link.topics.parse(topic)).kind == "deploy":
                self._announced(address.levels[0])
            if self._monotonic() >= until:
                break  # The rest at the next turn: a thousand models keep nobody waiting.
        if not self._unpublished:
            self._small.published()

    def _warn_of_clock(self) -> None:
        alert = self._wall.alert() if isinstance(self._wall, SteadyClock) else None
        if alert is not None:
            self._notes.troubles.begin(alert.code, alert.text)
            if not self._is_clock_doubted:
                self._notes.alert(alert)
        elif self._is_clock_doubted:
            self._notes.troubles.end(str(Code.CLOCK_STEPPED))
        self._is_clock_doubted = alert is not None

    def _warn_of_expiry(self) -> None:
        now = datetime.fromtimestamp(self._wall(), UTC)
        for one in self._repository.expiries(now):
            # We renew what the online keys sign, at half of its life. So a warning is usual there, and anything worse says that we cannot.
            if one.role in ONLINE and one.severity in {"ok", "warning"}:
                self._warned.pop(one.role, None)
                self._notes.troubles.end(KEY_EXPIRING, about=one.role)
                continue
            if self._warned.get(one.role, "ok") == one.severity:
                continue
            self._warned[one.role] = one.severity
            if one.severity == "ok":
                self._notes.troubles.end(KEY_EXPIRING, about=one.role)
                continue
            text = f"role {one.role} expires at {one.expires.isoformat()}: {one.severity}; {renewal(one.role)}"
            self._notes.troubles.begin(KEY_EXPIRING, text, about=one.role)
            self._notes.alert(Alert(kind="key_expiring", at=int(now.timestamp()), code=one.severity, text=text))
