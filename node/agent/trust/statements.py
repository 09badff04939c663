"""Read the hub's small topics: timestamp, index, deployments of the models that concern this node; and roles, when they are needed.

A hub of the version before says none of them, but everything on `trust`, at every step of every rollout. That topic is read only from such
a hub (node/core/trust/hub_topics.py), and its rollouts are followed as the deployments that they amount to.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import structlog

from fleetcast.backoff import LASTING_SECONDS
from node.agent.trust.retained_requests import DEPLOY, INDEX, ROLES, TIME, TRUST, RetainedRequests
from node.broker.mqtt import DeploymentsArrived, IndexArrived, NodeLink, RolesArrived, StatementEvent, TimeArrived
from node.core.trust import clock as clocks
from node.core.trust.hub_topics import OldTopic, RolesFetch
from node.storage.store import NodeStore
from node.trust.tuf_client import FolderGoneError, Trust, View
from schemas.bundle import TrustRoles, TrustTime
from schemas.deployment_index import DeploymentIndex, concerns
from schemas.deployments import Deployments, Envelope
from schemas.earlier_rollouts import as_deployments
from schemas.errors import Code, Refused, Unreachable
from schemas.selectors import NodeFacts, matches

log = structlog.get_logger()

LOOK_SECONDS = 1.0
NEAR_EXPIRY = timedelta(days=3)  # A hub signs its own roles again at half of their week.
DOUBT_SECONDS = 900.0  # Between two requests for everything for that reason: on a bad link each costs some KB.
FOLLOWED_MAX = 256  # Models whose topics are read; a hostile broker may list more.


class Statements:
    """Keep the statements of which nodes run what, and the topics that bring them. Called by the loop's thread alone."""

    def __init__(
        self,
        *,
        store: NodeStore,
        trust: Trust,
        link: NodeLink,
        wall: clocks.WallClock,
        monotonic: clocks.MonotonicClock,
        requests: RetainedRequests,
        facts: Callable[[], NodeFacts],
        refused: Callable[[Refused, str], None],
        believed: Callable[[View], None],
        changed: Callable[[], None],
        stands: Callable[[str], None],
        chosen: Callable[[Collection[str], Collection[str]], None],
    ) -> None:
        """Report a new view by `believed`, a statement that is new by `changed`, and models whose topics are read or left by `chosen`.

        A statement that came again as it stands is reported by `stands`.
        """
        self._store, self._trust, self._link, self._wall, self._monotonic = store, trust, link, wall, monotonic
        self._requests, self._facts, self._refusal, self._believed, self._changed = requests, facts, refused, believed, changed
        self._stands, self._chosen, self._topics = stands, chosen, link.topics
        self._old, self._roles = OldTopic(), RolesFetch()
        self._view: View | None = None
        self._index: DeploymentIndex | None = None
        self._deployments: Mapping[str, Deployments] = MappingProxyType({})
        self._waiting: dict[str, Envelope] = {}  # Statements that the roles at hand cannot prove.
        self._lacking: dict[str, int] = {}  # Models whose role is newer than the snapshot at hand lists, and its version.
        self._seen_facts: NodeFacts | None = None
        self._time_mid: int | None = None
        self._online = self._is_old_read = self._is_hub_new = False
        self._looked_at = self._connected_at = self._doubted_at = clocks.NEVER
        self._is_suspect = self._is_session_new = False
        self._is_unproven = False  # Roles are trusted by which no statement was looked at yet.
        self.followed: frozenset[str] = frozenset()  # Models whose deployments and releases are read.

    def begin(self, view: View | None) -> None:
        """Take up what was believed before a restart."""
        self._view, self._deployments = view, self._trust.deployments()
        self._choose()

    def statements(self) -> Mapping[str, Deployments]:
        """Return each model's deployments, also those that have expired meanwhile.

        What an earlier hub said in its own form counts where nothing newer was said since: one hub counts both by one serial.
        """
        found = dict(self._deployments)
        expires = self._view.rollouts_expire if self._view is not None else None
        if self._view is None or expires is None:
            return MappingProxyType(found)
        for model, rollout in {**self._view.held, **self._view.rollouts}.items():  # What is not understood keeps its parameters.
            if model not in found or rollout.serial > found[model].serial:
                found[model] = as_deployments(rollout, expires=int(expires.timestamp()))
        return MappingProxyType(found)

    def is_understood(self, model: str) -> bool:
        """Return whether the newest that an earlier hub said of a model is understood, or a statement of its own stands."""
        return self._view is None or model not in self._view.refused or model in self._deployments

    # The connection

    def connected(self, *, session_present: bool) -> None:
        """Subscribe to all that is read; a broker that kept the session sends again only what is new to it."""
        self._choose()
        self._is_session_new = not session_present
        self._online, self._connected_at = True, self._monotonic()
        link, topics = self._link, self._topics
        self._time_mid = link.read([topics.trust_time], only_if_new=session_present)
        link.read([topics.deployed, *map(topics.deploy, sorted(self.followed))], only_if_new=session_present)
        if self._is_old_read:
            link.subscribe_trust(only_if_new=session_present)
        if self._roles.reason is not None:
            self._read_anew([topics.trust_roles])

    def disconnected(self) -> None:
        """Take in that nothing can be subscribed to until the next connection."""
        if self._online:
            # One short connection is enough: between it and the next another client may have read what was ours.
            self._is_suspect = self._is_suspect or self._monotonic() - self._connected_at < LASTING_SECONDS
        self._online = False

    def granted(self, mid: int) -> None:
        """Take in that the broker has granted a subscription."""
        if mid == self._time_mid:
            self._old.granted(self._monotonic())

    def tick(self, now: clocks.MonotonicSeconds) -> None:
        """Look whether other topics are to be read than before."""
        if not self._online or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        self._look_at_session(now)
        self.look_at_facts()
        self._look_at_old_topic()
        self._look_at_roles()

    def _look_at_session(self, now: clocks.MonotonicSeconds) -> None:
        """Have everything said again after connections that another client with our name may have ended: it has read what was ours.

        Few brokers say why a connection ended. A bad link looks alike, and so this waits for a connection that lasts.
        """
        if not self._is_suspect or now - self._connected_at < LASTING_SECONDS or now - self._doubted_at < DOUBT_SECONDS:
            return
        self._is_suspect, self._doubted_at = False, now
        log.info("session.doubted", models=sorted(self.followed))
        models = [topic for model in sorted(self.followed) for topic in (self._topics.deploy(model), self._topics.model(model))]
        self._link.subscribe_again([self._topics.trust_time, self._topics.deployed, self._link.settings_topic, *models])

    def look_at_facts(self) -> None:
        """Read the topics of other models, where other selectors match this device now."""
        if self._facts() != self._seen_facts:
            self._choose()

    def _look_at_old_topic(self) -> None:
        is_read = self._old.is_read(self._monotonic(), int(self._wall()))
        if is_read == self._is_old_read:
            return
        self._is_old_read = is_read
        log.info("trust.subscribed" if is_read else "trust.unsubscribed", topic=self._topics.trust)
        if is_read:
            self._link.subscribe_trust(only_if_new=False)
        else:
            self._link.leave([self._topics.trust])

    def topic_of(self, name: str) -> str:
        """Return the topic of a message that is asked for again, by its name in the requests."""
        topics = {TRUST: self._topics.trust, TIME: self._topics.trust_time, ROLES: self._topics.trust_roles, INDEX: self._topics.deployed}
        if name in topics:
            return topics[name]
        return self._topics.deploy(name.removeprefix(DEPLOY)) if name.startswith(DEPLOY) else self._topics.model(name)

    def asked_again(self, names: Iterable[str]) -> None:
        """Take in what is asked for again; roles that did not become newer are asked for a few times only."""
        if ROLES in names and self._view is not None and not self._roles.goes_on():
            log.warning("roles.not_newer", reason=self._roles.reason)
            self._end_fetch(is_new=False)

    # What arrives

    def take(self, event: StatementEvent) -> None:
        """Take what came on one of the small topics; its effect is durable when this returns."""
        self._looked_at = clocks.NEVER  # It may call for other topics.
        match event:
            case TimeArrived(time):
                self._take_time(time)
            case RolesArrived(roles):
                self._take_roles(roles)
            case IndexArrived(index):
                self._take_index(index)
            case DeploymentsArrived(model, envelope):
                if model in self.followed:
                    self.take_deployments(model, envelope)

    def _take_time(self, time: TrustTime) -> None:
        try:
            view = self._trust.accept_timestamp(time.timestamp, now=self._now())
        except Unreachable as error:
            self._old.heard()
            self._is_hub_new = True
            self._unreachable(error, TIME)
        except Refused as refusal:
            if refusal.code is Code.TRUST_ROLLBACK and (self._is_old_read or not self._old.is_alone_accepted):
                # The hub was replaced by one of before, and the broker still has what the newer one said.
                log.info("timestamp.older", reason=refusal.reason)
                self._requests.settled(TIME)
            elif refusal.code is Code.TRUST_SIGNATURE and (self._index is None or self._is_outdated()):
                # The root may name another key by now: the roles that say so are fetched, and have a timestamp of their own.
                self._old.heard()
                log.info("timestamp.deferred", reason=refusal.reason)
                self._requests.settled(TIME)
            else:
                self._old.heard()
                self._refused(refusal, TIME)
        else:
            self._is_hub_new = True
            self._accepted_alone(view)
            self._requests.settled(TIME)
            self._believe(view)

    def _take_roles(self, roles: TrustRoles) -> None:
        self._is_hub_new = True
        before = self._view
        try:
            view = self._trust.accept_roles(roles, now=self._now())
        except FolderGoneError as error:
            self._unreachable(error, ROLES)
            return
        except Refused as refusal:
            self._refused(refusal, ROLES)
            return
        self._accepted_alone(view)
        is_new = before is None or view.snapshot_version != before.snapshot_version or view.root_version != before.root_version
        self._view = view
        self._is_unproven = self._is_unproven or is_new
        if is_new:
            self._lacking.clear()
        if self._reason() is None or self._reason() != self._roles.reason:
            self._end_fetch(is_new=is_new)
        else:
            self._requests.failed(ROLES, self._monotonic())
        self._believe(view)
        self.prove_again()

    def _take_index(self, index: DeploymentIndex) -> None:
        """Look which models may concern this node: the index is a hint, and a false one costs no more than withheld topics."""
        self._is_hub_new = True
        self._index = index
        self._requests.settled(INDEX)
        self._choose()

    def take_deployments(self, model: str, envelope: Envelope) -> None:
        """Take a model's deployments, from the broker or from a stick."""
        name = DEPLOY + model
        try:
            said = self._trust.accept_deployments(envelope, model=model, now=self._now())
        except Unreachable as error:
            if not isinstance(error, FolderGoneError):
                self._waiting[model] = envelope
            self._unreachable(error, name)
        except Refused as refusal:
            if refusal.code is Code.TRUST_SIGNATURE:
                self._waiting[model] = envelope  # Roles that name another key may be on their way.
            if refusal.code is Code.TRUST_SIGNATURE and self._is_outdated():
                log.info("deployments.deferred", model=model, reason=refusal.reason)
                self._requests.settled(name)
            else:
                self._refused(refusal, name)
        else:
            self._waiting.pop(model, None)
            self._requests.settled(name)
            if self._deployments.get(model) == said:
                self._stands(model)
                return
            self._deployments = MappingProxyType({**self._deployments, model: said})
            rollouts = [one.rollout.hex() for one in said.deployments]
            log.info("deployments.accepted", model=model, serial=said.serial, rollouts=rollouts)
            self._changed()

    # What others have found out

    def believes(self, view: View) -> None:
        """Take in what a bundle on the old topic, or on a stick, has changed."""
        if self._is_old_read:
            self._old.arrived(clocks.floor_of(view.timestamp_expires), self._monotonic())
        before, self._view = self._view, view
        if before is None or view.snapshot_version != before.snapshot_version or view.root_version != before.root_version:
            self._lacking.clear()
            self._is_unproven = True
        self.prove_again()

    def disbelieves(self) -> None:
        """Take in that a bundle on the old topic was refused."""
        self._old.arrived(None, self._monotonic())

    def lacks(self, model: str, version: int | None) -> None:
        """Take in that a model's role is newer than the snapshot at hand lists; None: it is not."""
        if version is None:
            self._lacking.pop(model, None)
        else:
            self._lacking[model] = version
            self._looked_at = clocks.NEVER

    def prove_again(self) -> None:
        """Look at all statements by the roles that are trusted now, unless that was done: another key may sign them."""
        if not self._is_unproven:
            return
        self._deployments = self._trust.deployments()
        for model, envelope in list(self._waiting.items()):
            self.take_deployments(model, envelope)
        self._is_unproven = False
        self._changed()

    # Roles

    def _look_at_roles(self) -> None:
        if not self._is_hub_new:
            return
        if self._roles.begins(self._reason(), routine=self._is_routine(), now=self._monotonic()):
            log.info("roles.fetched", reason=self._roles.reason)
            self._requests.failed(ROLES, self._monotonic())  # They are asked for again until they have had their effect.
            self._read_anew([self._topics.trust_roles])

    def _reason(self) -> str | None:
        """Return why roles are needed now; mostly somebody's word that nobody has verified."""
        if self._view is None:
            return "none"
        if self._is_outdated() and self._index is not None:
            return f"index {self._index.root} {self._index.targets}"
        return next((f"model {model} {version}" for model, version in sorted(self._lacking.items())), None)

    def _is_outdated(self) -> bool:
        view, index = self._view, self._index
        return view is not None and index is not None and (index.root > view.root_version or index.targets > view.targets_version)

    def _is_routine(self) -> bool:
        view = self._view
        if view is None:
            return False
        return view.snapshot_named > view.snapshot_version or view.roles_expire - self._now() < NEAR_EXPIRY

    def _end_fetch(self, *, is_new: bool) -> None:
        self._roles.ended(self._monotonic(), is_new=is_new)
        self._requests.settled(ROLES)
        self._link.leave([self._topics.trust_roles])

    # Topics

    def _choose(self) -> None:
        """Read the topics of the models that may concern this node, and of those that it serves."""
        facts = self._seen_facts = self._facts()
        serving = {model for model, slot in self._store.slots().items() if slot.serving is not None}
        if self._index is not None:
            selecting = {model for model, is_selected in concerns(self._index, facts).items() if is_selected}
        else:
            selecting = {
                model for model, one in self._deployments.items() if any(matches(each.selector, facts) for each in one.deployments)
            }
        if self._is_old_read:  # The index is an earlier hub's, and may know less than the rollouts do.
            selecting |= self.followed & self.statements().keys()
        wanted = [*sorted(serving), *sorted(selecting - serving)]
        if len(wanted) > FOLLOWED_MAX:
            log.error("models.too_many", models=len(wanted), followed=FOLLOWED_MAX)
        before, self.followed = self.followed, frozenset(wanted[:FOLLOWED_MAX])
        fresh, left = sorted(self.followed - before), sorted(before - self.followed)
        for model in left:
            self._waiting.pop(model, None)
            self._requests.settled(DEPLOY + model)
        self._chosen(fresh, left)
        if self._online:
            self._read_anew([topic for model in fresh for topic in (self._topics.deploy(model), self._topics.model(model))])
            self._link.leave([topic for model in left for topic in (self._topics.deploy(model), self._topics.model(model))])

    def _read_anew(self, topics: Sequence[str]) -> None:
        """Read topics that this process does not read. In an older session a clone may have begun them, and so they are ended first.

        Not every broker otherwise gives what it retains.
        """
        if self._is_session_new:
            self._link.read(topics)
        else:
            self._link.subscribe_again(topics)

    # What is common

    def _now(self) -> datetime:
        return datetime.fromtimestamp(clocks.trusted_now(int(self._wall()), self._store.fact("clock_floor")), UTC)

    def _accepted_alone(self, view: View) -> None:
        self._old.accepted_alone(clocks.floor_of(view.timestamp_expires), self._monotonic())

    def _believe(self, view: View) -> None:
        self._view = view
        self._believed(view)

    def _refused(self, refusal: Refused, name: str) -> None:
        if refusal.code is Code.DISK_FULL:
            raise refusal  # The message is good: it is taken once there is room.
        if refusal.code is Code.TRUST_EXPIRED:
            self._requests.put_off(name)  # Perhaps it is the clock that is wrong, and not the message.
        elif name != ROLES:
            self._requests.settled(name)
        self._refusal(refusal, name.removeprefix(DEPLOY) if name.startswith(DEPLOY) else "")

    def _unreachable(self, error: Unreachable, name: str) -> None:
        log.info("statement.deferred", name=name, reason=str(error))
        if isinstance(error, FolderGoneError):
            self._requests.failed(name, self._monotonic())
        else:
            self._requests.settled(name)


def name_of(event: StatementEvent) -> str:
    """Return by what name a message is asked for again."""
    match event:
        case TimeArrived():
            return TIME
        case RolesArrived():
            return ROLES
        case IndexArrived():
            return INDEX
        case DeploymentsArrived(model):
            return DEPLOY + model
