"""Keep what the node believes of its fleet, and act on it: verified trust and releases in, wishes to the slots out."""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime

import structlog

from fleetcast.time_zones import system_zone, zone_of
from node.agent.activation.slots import Slots
from node.agent.reports.standing_findings import StandingFindings
from node.agent.trust.retained_requests import TRUST, RetainedRequests
from node.agent.trust.statements import Statements, name_of
from node.broker.mqtt import NodeLink, StatementEvent
from node.core.trust import clock as clocks
from node.settings import NodeSettings
from node.storage.sideload import Sideload
from node.storage.store import NodeStore
from node.trust.tuf_client import FolderGoneError, NewerRoleError, Release, Trust, View
from schemas.bundle import ModelBundle, TrustBundle
from schemas.deployments import Deployment, Deployments, Keep, Run, Stop, attempt_id, deciding, moved_by, wish
from schemas.errors import Code, Refused, Unreachable
from schemas.names import version_key
from schemas.parameters import Value
from schemas.rollout import Carriage
from schemas.selectors import NodeFacts
from schemas.windows import is_open

log = structlog.get_logger()

CARRIED_SECONDS = 1.0  # how often the folder of what was carried here is looked at
FAILED_SECONDS = 60.0  # until it is looked at again after a fault
DEADLINE_SECONDS = 30.0  # how often is looked whether a rollout's deadline has passed
OWED_SECONDS = 5.0  # Between two tries to bring about what an error has prevented.
CLOCK = "the clock"  # A subject of findings.
CLOCK_SECONDS = 1.0  # how often is looked whether the clock was set


class TrustState:
    """Hold trust metadata, the models' releases, and what was carried here in place of a broker's messages."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        store: NodeStore,
        trust: Trust,
        carried: Sideload,
        wall: clocks.WallClock,
        monotonic: clocks.MonotonicClock,
        requests: RetainedRequests,
        link: NodeLink,
        facts: Callable[[], NodeFacts],
        refused: Callable[[Refused, str], None],
        found: Callable[[], None],
        findings: StandingFindings,
        look_at_settings: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._store, self._trust, self._sideload, self._wall = settings, store, trust, carried, wall
        self._monotonic, self._requests = monotonic, requests
        self._subscribe_models = link.subscribe_models
        self._refusal, self._found, self._facts = refused, found, facts
        self._statements = Statements(
            store=store,
            trust=trust,
            link=link,
            wall=wall,
            monotonic=monotonic,
            requests=requests,
            facts=facts,
            refused=self._statement_refused,
            believed=self._believe,
            changed=self._changed,
            stands=self._stands,
            chosen=self._chosen,
        )
        self._findings = findings
        self._look_at_settings = look_at_settings  # Before any wish: labels decide which deployment is followed.
        self._slots: Slots | None = None
        self.view: View | None = None
        self.models: set[str] = set()  # whose topics are read
        self._releases: dict[str, tuple[Release, ...]] = {}
        self._left_out: dict[str, dict[str, Refused]] = {}  # By model and version: releases that this node does not understand.
        self._pending: dict[str, ModelBundle] = {}
        self._seen: dict[bytes, float] = {}
        self._looked_at = self._clock_looked_at = self._deadline_looked_at = clocks.NEVER
        self._parameters: Mapping[str, object] = {}
        self._doubted: int | None = None  # The time that the clock is behind, where it is.
        self._zone = zone_of(settings.time_zone) if settings.time_zone else system_zone()
        self._not_understood: dict[str, int] = {}  # Models whose newest statement was refused, and the serial of the one that stands.
        self._is_owed, self._owed_at = False, clocks.NEVER  # Whether what is believed has not had its effect on every slot.
        self._reported: dict[str, str] = {}  # Rollouts that are not understood, by model, as they were last reported.

    def begin(self, slots: Slots) -> None:
        """Take up what was believed before a restart; wishes go to these slots."""
        self._slots = slots
        self.view = self._trust.current()
        if self.view is not None:
            self._find_refused(self.view)
            self._store.raise_fact("clock_floor", clocks.floor_of(self.view.timestamp_expires))
        self._statements.begin(self.view)

    def statements(self) -> Mapping[str, Deployments]:
        """Return the deployments of every model that this node knows of, whichever way they came; some may have expired."""
        return self._statements.statements()

    def is_fresh(self, statement: Deployments) -> bool:
        """Return whether a statement still calls for something new; what runs by an expired one goes on, with its parameters."""
        wall, floor = int(self._wall()), self._store.fact("clock_floor")
        return not self.stale() and clocks.trusted_now(wall, floor) < statement.expires

    # The small topics

    @property
    def followed(self) -> frozenset[str]:
        """Return the models whose releases are read."""
        return self._statements.followed | self.models

    def connected(self, *, session_present: bool) -> None:
        """Subscribe to what the hub says of trust, deployments and releases."""
        self._statements.connected(session_present=session_present)
        self._subscribe_models(sorted(self.followed), only_if_new=session_present)

    def disconnected(self) -> None:
        """Take in that the connection is gone."""
        self._statements.disconnected()

    def granted(self, mid: int) -> None:
        """Take in that the broker has granted a subscription."""
        self._statements.granted(mid)

    def tick(self, now: clocks.MonotonicSeconds) -> None:
        """Look whether other topics are to be read, or roles to be fetched."""
        self._statements.tick(now)

    def take(self, event: StatementEvent) -> None:
        """Take what came on one of the small topics."""
        self._look_at_clock()
        self._statements.take(event)

    def failed_at(self, event: StatementEvent) -> None:
        """Have a message said again whose handling met an error."""
        self.failed(name_of(event))

    def topics_of(self, names: Collection[str]) -> list[str]:
        """Return the topics of messages that are asked for again."""
        self._statements.asked_again(names)
        return sorted(self._statements.topic_of(name) for name in names)

    def _believe(self, view: View) -> None:
        self.view = view
        log.info("trust.accepted", root=view.root_version, timestamp=view.timestamp_version)
        self._store.raise_fact("clock_floor", clocks.floor_of(view.timestamp_expires))
        self._findings.put("trust", TRUST, ())
        self._report_refused(view)
        for pending in list(self._pending.values()):
            self.take_model(pending)
        self._changed()

    def _chosen(self, read: Collection[str], left: Collection[str]) -> None:
        self.models = (self.models | set(read)) - set(left)

    def look_at_owed(self, now: clocks.MonotonicSeconds) -> None:
        """Follow what a full disk, or another error, kept from its effect: no message would come again for it."""
        if now - self._owed_at < OWED_SECONDS:
            return
        self._owed_at = now
        self._statements.prove_again()
        if self._is_owed:
            self._changed()

    def _changed(self) -> None:
        self._is_owed = True
        statements = self.statements()
        for model, serial in list(self._not_understood.items()):
            if model in statements and statements[model].serial > serial:
                del self._not_understood[model]
                self._findings.put("rollout", model, ())
        self._follow()
        self._apply_parameters()
        self._is_owed = False

    def _stands(self, model: str) -> None:
        """Take in that the hub says what this node follows: what was refused in between was somebody else's."""
        if self._is_owed:
            self._changed()
        if self._not_understood.pop(model, None) is not None:
            self._findings.put("rollout", model, ())

    def _statement_refused(self, refusal: Refused, model: str) -> None:
        """Report a statement that is refused alone: what an earlier one says goes on."""
        self._refusal(refusal, model)
        if model:
            standing = self.statements().get(model)
            self._not_understood[model] = standing.serial if standing is not None else 0
            self._findings.put("rollout", model, [refusal])

    def relabelled(self) -> None:
        """Take in that this device may have other labels: it belongs to where it now is, also in the midst of a rollout."""
        self._is_owed = True
        self._statements.look_at_facts()
        self._apply_parameters()
        self._follow()
        self._is_owed = False

    # Releases, and the bundles of hubs before deployments

    def take_trust(self, bundle: TrustBundle, *, carried: bool = False) -> None:
        """Take trust metadata from the hub, or from a stick: whom to trust and what to run."""
        self._look_at_clock()  # so that the clock by which a message is judged is known when it is put off
        floor = self._store.fact("clock_floor")
        now = datetime.fromtimestamp(clocks.trusted_now(int(self._wall()), floor), UTC)
        try:
            self.view = self._trust.accept(bundle, now=now)
        except Refused as refusal:
            if refusal.code is Code.DISK_FULL:
                raise  # the bundle is good: it is taken once there is room
            self._statements.disbelieves()
            self._refused(refusal, TRUST, carried=carried)
        except FolderGoneError as error:
            self._folder_gone(error, TRUST)
        except Unreachable as error:
            log.warning("trust.incomplete", reason=str(error))
        else:
            self._statements.believes(self.view)
            self._believe(self.view)
            self._requests.settled(TRUST)

    def take_model(self, bundle: ModelBundle, *, carried: bool = False) -> None:
        """Take a model's releases from the hub, or from a stick."""
        model = bundle.model
        self._look_at_clock()
        try:
            now = datetime.fromtimestamp(float(self._wall()), UTC)
            refusals: dict[str, Refused] = {}
            self._releases[model] = self._trust.accept_model(bundle, now=now, refused=refusals.__setitem__)
            self._pending.pop(model, None)
            for refusal in refusals.values():
                self._refusal(refusal, model)
            self._findings.put("model", model, ())
            self._left_out[model] = refusals
            self._find_releases(model, {})
            self._statements.lacks(model, None)
            if self._slots is not None:
                self._slots.announced(self._releases[model])
            self._follow()
            self._requests.settled(model)
        except Refused as refusal:
            if refusal.code is Code.DISK_FULL:
                raise
            self._pending.pop(model, None)
            self._refused(refusal, model, carried=carried)
        except FolderGoneError as error:
            self._folder_gone(error, model)
        except Unreachable as error:
            self._pending[model] = bundle  # the roles that list it are on their way, or the clock is not right yet
            self._statements.lacks(model, error.version if isinstance(error, NewerRoleError) else None)
            self._requests.settled(model)
            log.info("model.deferred", model=model, reason=str(error))

    def failed(self, name: str) -> None:
        """Have a message said again whose handling met an error: `TRUST`, or the model that it is about."""
        self._requests.failed(name, self._monotonic())

    def look_at_clock(self, now: clocks.MonotonicSeconds) -> None:
        """Look again at what was put off because of the time, once the clock was set or has come to be believed."""
        if now - self._clock_looked_at >= CLOCK_SECONDS:
            self._clock_looked_at = now
            self._look_at_clock()

    def _look_at_clock(self) -> None:
        wall, floor = self._wall(), self._store.fact("clock_floor")
        now = self._monotonic()
        self._find_clock(int(wall), floor)
        usable = clocks.is_known(int(wall), floor) and not self.stale()
        if not self._requests.clock_changed(usable=usable, distance_seconds=float(wall) - float(now), now=now):
            return
        log.info("clock.changed", wall=int(wall), usable=usable)
        self._seen.clear()  # what was carried here is no message that a broker could say again
        for pending in list(self._pending.values()):
            self.take_model(pending)
        self._follow()

    def _find_clock(self, wall: int, floor: int) -> None:
        """Report that nothing is activated because of the time, with both times as they were when that was noticed."""
        doubted = None if clocks.is_known(wall, floor) else max(floor, clocks.BUILD_TIME)
        if doubted == self._doubted:
            return
        self._doubted, found = doubted, []
        if doubted is not None:
            at, signed = (f"{datetime.fromtimestamp(one, UTC):%Y-%m-%d %H:%M} UTC" for one in (wall, doubted))
            whose = f"the hub has signed at {signed}" if floor >= clocks.BUILD_TIME else f"fleetcast was made at {signed}"
            reason = f"the clock here says {at}, and {whose}: until then nothing new is activated, unless the clock that is wrong is set"
            found = [Refused(Code.CLOCK_UNKNOWN, reason)]
        self._findings.put("trust", CLOCK, found)

    def _report_refused(self, view: View) -> None:
        """Report each rollout that is not understood, once: the same comes again with every bundle."""
        for model, refusal in view.refused.items():
            if self._reported.get(model) != str(refusal):
                self._refusal(refusal, model)
        self._reported = {model: str(refusal) for model, refusal in view.refused.items()}
        self._find_refused(view)

    def _find_refused(self, view: View) -> None:
        self._findings.keep_only("rollout", {*view.refused, *self._not_understood})
        for model, refusal in view.refused.items():
            self._findings.put("rollout", model, [refusal])

    def _refused(self, refusal: Refused, name: str, *, carried: bool) -> None:
        if refusal.code is Code.TRUST_EXPIRED:  # perhaps it is the clock that is wrong, and not the message
            self._requests.put_off(name)
        else:
            self._requests.settled(name)
        self._refusal(refusal, name)
        if not carried:  # Nobody can say when an old stick is no trouble any more.
            self._findings.put("trust" if name == TRUST else "model", name, [refusal])

    def _folder_gone(self, error: FolderGoneError, name: str) -> None:
        log.error("trust.folder_lost", reason=str(error))
        self._seen.clear()
        self.failed(name)

    def look_for_carried(self, now: clocks.MonotonicSeconds) -> None:
        """Take what somebody brought on a stick as if it came from the broker: verified alike, refused alike."""
        if now - self._looked_at < CARRIED_SECONDS:
            return
        self._looked_at = now
        for release, unpacked_at in self._sideload.releases().items():
            if self._seen.get(release) == unpacked_at:
                continue
            self._seen[release] = unpacked_at
            try:
                brought = self._sideload.documents(release)
            except Refused as refusal:
                self._refusal(refusal, "")
                self._sideload.remove(release)
                continue
            log.info("carried.found", model=brought.parcel.model, version=brought.parcel.version, blocks=brought.parcel.blocks)
            try:
                self.take_trust(brought.trust, carried=True)
                if brought.deployments is not None:
                    self._statements.take_deployments(brought.parcel.model, brought.deployments)
                self.take_model(brought.model, carried=True)
            except Exception as error:  # it is looked at again: at once where the disk was full, later where a fault of ours may stay
                del self._seen[release]
                if not isinstance(error, Refused):
                    self._looked_at = now + FAILED_SECONDS
                raise
            self._found()

    def deciding(self, model: str) -> Deployment | None:
        """Return the deployment of a model that decides for this node."""
        statement = self.statements().get(model)
        return deciding(statement.deployments, self._facts()) if statement is not None else None

    def deployments_of(self, model: str) -> tuple[Deployment, ...]:
        """Return a model's deployments, in the order in which they decide."""
        statement = self.statements().get(model)
        return statement.deployments if statement is not None else ()

    def carriage_of(self, model: str) -> Carriage | None:
        """Return how the bytes of a model's rollout may travel."""
        decides = self.deciding(model)
        return decides.carriage if decides is not None else None

    def may_activate(self, model: str, rollout: bytes, now: clocks.WallSeconds) -> bool:
        """Return whether the rollout lets this node switch at this time of the week. Going back never waits."""
        decides = self.deciding(model)
        if decides is None or decides.activate is None or rollout != attempt_id(decides):
            return True
        return is_open(decides.activate, float(now), self._zone)

    def look_at_deadlines(self, now: clocks.MonotonicSeconds) -> None:
        """Follow what was not followed when its message came, because of a time that has come since."""
        if now - self._deadline_looked_at < DEADLINE_SECONDS:
            return
        self._deadline_looked_at = now
        if any(one.deadline is not None and one.state == "running" for one in self._decides().values()):
            self._follow()

    def parameters_of(self, model: str, digest: bytes) -> Mapping[str, Value]:
        """Return what the deployment that decides for this node sets of a release's parameters."""
        decides = self.deciding(model)
        return decides.parameters_of(digest) if decides is not None else {}

    def known_models(self) -> set[str]:
        """Return the models that have deployments, whether they are understood or not."""
        return {*self.statements(), *self.view.refused} if self.view is not None else set()

    def _decides(self) -> dict[str, Deployment]:
        """Return the deployments that decide for this node, by model; the statements are put together once for all of them."""
        facts = self._facts()
        found = {model: deciding(one.deployments, facts) for model, one in self.statements().items()}
        return {model: one for model, one in found.items() if one is not None}

    def _apply_parameters(self) -> None:
        """Have the slots take in that operators set something else than before, of what runs here already."""
        found = {model: one.parameters for model, one in self._decides().items()}
        if found != self._parameters and self._slots is not None:
            self._slots.parameters_changed()
        self._parameters = found

    def _follow(self) -> None:
        """Bring every slot towards what the rollouts want of this node."""
        self._look_at_settings()
        if self.view is None or self._slots is None or self.stale():
            return  # what is active keeps serving, nothing new is activated
        self._slots.keep_models(self.view.models)
        for model, statement in self.statements().items():
            if model not in self.view.models or not self.is_fresh(statement):
                continue  # A removed model has no role any more, and by an expired statement nothing new is activated.
            if self._statements.is_understood(model):
                self._follow_model(model, self._slots)
            else:
                self._slots.halted(model, self._wall())  # Nobody knows whether the rollout still names this node: it keeps what it serves.

    def _follow_model(self, model: str, slots: Slots) -> None:
        decides, serving, moved = self.deciding(model), slots.serving(model), self._store.moved(model)
        digest = serving.digest if serving is not None else None
        found = wish(decides, self._facts(), serving=digest, moved=moved, now=int(self._wall()))
        match found:
            case Keep():
                slots.halted(model, self._wall())  # what an earlier statement has begun here is given up
            case Stop():
                slots.stopped(model, self._wall())
            case Run(reference, rollout):
                if model not in self.models:
                    self.models.add(model)
                    self._subscribe_models([model])
                release = next((one for one in self._releases.get(model, ()) if one.digest == reference.digest), None)
                if release is None or decides is None:
                    return  # it is announced by a message of its own
                old = self._too_old(release)
                self._find_releases(model, {} if old is None else {release.manifest.version: old})
                if old is not None and release.digest != digest:
                    slots.halted(model, self._wall())  # What serves goes on: the minimum bounds what is begun.
                    return
                if (memory := moved_by(decides, found, serving=serving, moved=moved)) is not None:
                    self._store.put_moved(model, memory)
                slots.wanted(release, rollout, self._wall())

    def _too_old(self, release: Release) -> Refused | None:
        model, version = release.manifest.model, release.manifest.version
        minimum = self.view.minimums.get(model) if self.view is not None else None
        if minimum is None or version_key(version) >= version_key(minimum):
            return None
        reason = (
            f"the rollout wants {version} here, and the oldest version of {model} that the targets key lets nodes activate is {minimum}"
        )
        return Refused(Code.RELEASE_TOO_OLD, reason)

    def _find_releases(self, model: str, too_old: Mapping[str, Refused]) -> None:
        found = {**self._left_out.get(model, {}), **too_old}
        self._findings.put("release", model, tuple(found.values()), versions=tuple(found))

    def stale(self) -> bool:
        """Return whether the trusted metadata has expired by now, or nobody can say because the clock is not to be believed."""
        if self.view is None:
            return False
        wall, floor = int(self._wall()), self._store.fact("clock_floor")
        now = clocks.trusted_now(wall, floor)
        return not clocks.is_known(wall, floor) or self.view.expires.timestamp() <= now
