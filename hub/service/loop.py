"""Runs the hub's one loop: an inbox of events, the parts that handle them, a clock that ticks.

One thread owns everything; paho's network thread only puts events into the inbox. What waits there is bounded
(hub/service/broker/inbox.py), and a turn takes a share of every lane of it, so that no sender keeps operators or other nodes waiting. What
a message does wrong never ends the loop: a refusal is noted with its code, a bug of ours is logged with its traceback, and both are
acknowledged, because they would only come again. When the database does not answer or the disk is full, nothing is acknowledged: the
connection is dropped, and the broker brings the messages again.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

import structlog

from fleetcast import durable
from fleetcast.backoff import SHORT_CONNECTIONS_MIN, Backoff, Reconnection
from fleetcast.mqtt_connection import (
    CONNACK_SECONDS,
    DROPPED,
    BoundedClient,
    Cleared,
    Connected,
    Disconnected,
    MakeClient,
    Message,
    Published,
    Subscribed,
    Unreadable,
)
from hub.core.roles.shards import parse as parse_shard
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.fleet import Node
from hub.database.database_file import DatabaseFile
from hub.database.hearing import Hearing
from hub.database.leadership import Leadership
from hub.database.place import place_of
from hub.database.store import Store
from hub.publish.blocks import open_blocks
from hub.service.alerts.event_log import Notes
from hub.service.alerts.flood_alerts import Floods
from hub.service.broker import access_lists
from hub.service.broker.embedded import OwnBroker
from hub.service.broker.inbox import LANES, Inbox, OtherFleet
from hub.service.broker.mqtt import (
    NODE_KINDS,
    HubEvent,
    HubLink,
    OwnTopic,
    PresenceArrived,
    ReceiptArrived,
    StateArrived,
    WantArrived,
    WindowArrived,
)
from hub.service.broker.shared_broker import SharedBroker, client_id_of
from hub.service.broker.taken_over import TakenOver
from hub.service.broker.taking import Taking
from hub.service.delivery.announce import Signers
from hub.service.delivery.online_keys import LoadKey
from hub.service.enrol.enrolment_service import Enrolling
from hub.service.folder_lock import locked
from hub.service.metrics.hub_metrics import Counted, HubMetrics
from hub.service.own_disk import OwnDisk
from hub.service.roles.clocks import FollowersClock, LeadersClock
from hub.service.roles.controlling import Controlling
from hub.service.roles.followed_nodes import FollowedNodes
from hub.service.roles.ingesting import Ingesting
from hub.service.roles.processes import Processes
from hub.service.roles.serving_blocks import ServingBlocks
from hub.service.roles.serving_people import ServingPeople
from hub.service.roles.shared_parts import Common, Handle, Role
from hub.service.rollouts.listening import ListeningClock
from hub.service.rollouts.release_lookup import Releases
from hub.service.rollouts.rollout_traces import RolloutTraces
from hub.service.store_pauses import StorePauses
from hub.settings import HubSettings
from hub.signing.certificate_authority import Authority
from hub.signing.tuf_repository import Repository
from schemas.analytics_messages import Alert, Drift, MergedWindow
from schemas.errors import Refused, Unreachable
from schemas.limits import PACKET_BYTES_MAX
from schemas.topics import Topics

log = structlog.get_logger()

TURN_SECONDS = 0.2  # how long the loop sleeps when nothing happens
BATCH_WINDOWS = 1024  # become durable together
AT_ONCE = {
    "want": 16,
    "state": 256,
    "receipt": 256,
    "telemetry": BATCH_WINDOWS,
}  # messages of a lane between two looks at the clock; of others 4
LANE_SECONDS = 0.08  # each lane's share of a turn: a flood in one must neither keep the others from theirs nor operators from an answer
GATHER_SECONDS = 0.02  # windows wait this long for more: what they cost is the sync of the disk, and nothing waits for them
LOOK_SECONDS = 0.5  # between two looks at what publishers and operators have written
FILE_SECONDS = 3.0  # between two looks whether the database is still the file that was opened
RETRY = Backoff(0.2, 30.0)


def ready_name(settings: HubSettings) -> str:
    """Return the name of the file in the fleet's folder that says that a process runs."""
    return f"{settings.process_name}.ready"


class Service:
    """Run one hub. While it runs, `hub.ready` in the fleet's folder says its process id and where its broker is, for scripts.

    `run` is `begin`, `turn` again and again, and `leave`. The clocks, `sleep`, `inbox` and `make_client` are others in a simulated fleet.
    """

    def __init__(
        self,
        directory: Path,
        settings: HubSettings,
        *,
        signers: Signers | None,
        authority: Authority | None = None,
        load_key: LoadKey | None = None,
        leadership: Leadership | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
        sleep: Callable[[float], object] = time.sleep,
        inbox: Inbox | None = None,
        make_client: MakeClient = BoundedClient,
    ) -> None:
        """Make it, with the online keys where it has the role `controller`, and the lead where others could have it."""
        settings.check_roles()
        self._directory, self._settings, self._wall, self._monotonic, self._sleep = directory, settings, wall, monotonic, sleep
        self._rng, self._leadership, self._name = rng or Random(), leadership, settings.process_name
        self._lock = locked(directory, self._name)
        self._inbox = inbox or Inbox(Topics(settings.fleet), settings, monotonic=monotonic)
        place = place_of(directory, settings.database_url, settings.database_password_file)
        self._store = Store(place, clock=wall)
        self._store.create()
        self._file = DatabaseFile(place)
        self._store_pauses = StorePauses(self._store.database, monotonic=monotonic, sleep=sleep, rng=self._rng)
        self._notes = Notes(self._store, publish=self._publish_insight, clock=wall, process=self._name)
        self._own_disk = OwnDisk(self._notes, publish=self._publish_insight, wall=wall, monotonic=monotonic)
        self._floods = Floods(self._notes, wall=wall, monotonic=monotonic)
        self._processes = Processes.of(self._store.database, directory, settings, self._notes, leadership, (wall, monotonic))
        self._listening = self._clock_of_listening()
        self._broker = None
        if not settings.broker_url:
            self._broker = OwnBroker(directory / "broker", port=settings.broker_port, notes=self._notes, monotonic=monotonic)
        self._link = HubLink(
            self.broker_url,
            fleet=settings.fleet,
            inbox=self._inbox,
            tls=settings.tls,
            make_client=make_client,
            client_id=client_id_of(directory, settings),
            may_announce=leadership.check if leadership is not None else lambda: None,
        )
        self._online = self._ever_online = False
        self._subscriptions = 0  # That the broker has yet to answer.
        self.web_url: str | None = None  # Address of the API, where one runs beside this.
        self._again, self._taken_over = Reconnection(RETRY), TakenOver(self._notes)
        self._shared_broker = SharedBroker(directory, settings, link=self._link, notes=self._notes, wall=wall)
        self._packet_bytes_max, self._looked_at = PACKET_BYTES_MAX, float("-inf")
        fence = leadership.fence if leadership is not None else None
        self._repository, self._blocks = Repository(directory / "trust", fence=fence), open_blocks(directory, settings)
        self._traces = RolloutTraces.of(settings, wall=wall, models=self._models)
        common = Common(
            directory=directory,
            settings=settings,
            store=self._store,
            notes=self._notes,
            link=self._link,
            repository=self._repository,
            blocks=self._blocks,
            releases=Releases(self._repository, self._blocks.local),
            traces=self._traces,
            listening=self._listening,
            rng=self._rng,
            wall=wall,
            monotonic=monotonic,
            publish=self._publish_insight,
            wake=self._inbox.wake,
        )
        self._make_roles(common, authority, signers, load_key)
        taking = Taking(self._link, self._notes)
        self._handle_by = Handle(many=taking.many, one=taking.one)
        self._metrics = HubMetrics(
            directory,
            settings,
            counted=Counted(
                self._inbox,
                self._notes,
                self._floods,
                self._serving.wants if self._serving else None,
                self._controlling.settling.tests if self._controlling else {},
            ),
            nodes=self._nodes,
            models=self._models,
            repository=self._repository,
            listening=self._listening,
            wall=wall,
            monotonic=monotonic,
        )

    def _clock_of_listening(self) -> ListeningClock:
        hearing, roles = Hearing(self._store.database), self._settings.roles
        if "controller" in roles and "ingest" not in roles:
            processes = self._processes
            return LeadersClock(hearing, monotonic=self._monotonic, unheard=lambda: processes.unheard if processes else "")
        if "controller" not in roles:
            return FollowersClock(hearing, monotonic=self._monotonic)
        return ListeningClock(hearing, monotonic=self._monotonic)

    def _make_roles(self, common: Common, authority: Authority | None, signers: Signers | None, load_key: LoadKey | None) -> None:
        """Make the roles of this process, in the order in which they have their turns."""
        settings, roles = self._settings, self._settings.roles
        self._enrolling = Enrolling(
            self._directory,
            settings if "web" in roles else settings.model_copy(update={"enrolment_listen": ""}),
            authority=authority if "web" in roles else None,
            store=self._store,
            notes=self._notes,
            broker_url=self.broker_url,
            revoked=self._revoked,
            wall=self._wall,
            monotonic=self._monotonic,
        )
        self._ingesting: Ingesting | None = None
        self._controlling: Controlling | None = None
        self._serving: ServingBlocks | None = None
        self._followed: FollowedNodes | None = None
        self._nodes: Mapping[str, Node] = {}
        if "ingest" in roles:
            self._ingesting = Ingesting(
                common,
                self._enrolling,
                shard=parse_shard(settings.shard),
                set_cohorts=self._set_cohorts,
                tests_itself="controller" in roles,
            )
            self._ingest, self._nodes = self._ingesting.ingest, self._ingesting.nodes
        elif "controller" in roles:
            self._followed = FollowedNodes(
                self._store, self._enrolling.roll, listening=self._listening, wall=self._wall, monotonic=self._monotonic
            )
            self._nodes = self._followed.nodes
        if "controller" in roles:
            if signers is None:
                raise ValueError("the role controller signs, and was given no keys")
            self._controlling = Controlling(
                common,
                self._enrolling,
                signers=signers,
                load_key=load_key,
                nodes=self._nodes,
                is_online=lambda: self._online,
                follow=self._followed.tick if self._followed is not None else lambda: None,
                settled=self._ingesting.ingest.settled if self._ingesting is not None else lambda *_: None,
            )
            self._controller, self._announcer = self._controlling.controller, self._controlling.announcer
        if "blocks" in roles:
            self._serving = ServingBlocks(common, is_alone=settings.has_all_roles, seen=self._seen)
        people = ServingPeople(common, self._enrolling) if "web" in roles else None
        self._roles: list[Role] = [role for role in (self._controlling, self._ingesting, self._serving, people) if role is not None]

    def _models(self) -> Iterable[Model]:
        return self._controlling.controller.models if self._controlling is not None else ()

    def _revoked(self, node: str) -> None:
        if self._ingesting is not None:
            self._ingesting.ingest.forget(node)
        if self._followed is not None:
            self._followed.forget(node)

    def _seen(self, node: str) -> None:
        """Note that a node was heard.

        Raises:
            Refused: nothing in its name counts.
        """
        if self._ingesting is not None and self._settings.has_all_roles:
            self._ingesting.ingest.seen(node)
            return
        if not self._enrolling.roll.counts(node):
            self._enrolling.follow()
        self._enrolling.roll.check(node)

    def _set_cohorts(self) -> Iterable[str]:
        """Return the cohorts that the hub has set of nodes, and those that nodes of other processes report."""
        found = self._controlling.node_settings.cohorts if self._controlling is not None else set()
        return found | self._store.cohorts_of_nodes() if not self._settings.has_all_roles else found

    @property
    def broker_url(self) -> str:
        """Return where the broker is."""
        return self._broker.url if self._broker is not None else self._settings.broker_url

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            Refused: the embedded broker's port is taken, or the enrolment endpoint's.
            Unreachable: the broker did not answer in the first `connect_seconds`, or the database's file was deleted or replaced.
        """
        began = looked_at = self._monotonic()
        try:
            self.begin()
            while not stop.is_set():
                self.turn()
                if not self._ever_online and self._monotonic() - began > self._settings.connect_seconds:
                    raise Unreachable(f"broker {self.broker_url} did not answer in {self._settings.connect_seconds:g} s")
                if self._monotonic() - looked_at >= FILE_SECONDS:
                    looked_at = self._monotonic()
                    self._file.check()
        finally:
            self.leave()

    def begin(self) -> None:
        """Start what runs beside the loop.

        Raises:
            Refused: the embedded broker's port is taken, or the enrolment endpoint's.
        """
        if self._broker is not None:
            self._broker.start()
        elif rules := access_lists.missing(self._directory, self._settings.fleet):
            self._notes.event("access_list.outdated", access_lists.in_words(rules), missing=rules)
        for role in self._roles:
            role.begin()
        self._metrics.start()

    def leave(self) -> None:
        """Leave politely, and let go of the fleet's folder."""
        (self._directory / ready_name(self._settings)).unlink(missing_ok=True)
        self._metrics.stop()
        is_deposed = self._leadership is not None and not self._leadership.leads
        for role in reversed(self._roles):
            with contextlib.suppress(Unreachable, Refused):
                if not (is_deposed and isinstance(role, Ingesting)):  # Another has newer news, which is not to be overwritten.
                    role.leave()
        with contextlib.suppress(Unreachable, Refused):
            if not is_deposed:
                self._listening.save()
            self._leave_others()
            self._notes.troubles.leave()
        if self._ever_online:
            self._link.close()
        if self._broker is not None:
            self._broker.stop()
        self._traces.stop()
        self._store.close()
        self._lock.close()

    @property
    def _stands_down(self) -> bool:  # for another hub, which began before this one
        return self._controlling is not None and self._controlling.rivals.standing == "down"

    def _leave_others(self) -> None:
        """Leave this process's share to the others, where there are others."""
        if self._processes is None:
            return
        if self._ingesting is not None and self._ingesting.shared and self._online and self._processes.ingest_others:
            self._link.leave_shared(self._ingesting.shared)
        self._processes.leave()

    # One turn

    def turn(self) -> None:
        """Read what came, and give every part its turn.

        Raises:
            Deposed: this process led the fleet, and no longer does.
        """
        if self._leadership is not None:
            self._leadership.check()
        if self._store_pauses.pauses():
            return
        try:
            if self._broker is not None and self._broker.revive():
                self._again.hurry()
                self._write_ready()
            if not self._online and self._monotonic() >= self._again.due_at and not self._stands_down:
                self._connect()
            self._read()
            if self._stands_down and self._online:
                self._make_room()
            self._tick()
            self._own_disk.worked()
            self._store_pauses.worked()
            self._metrics.tick(online=self._online)
        except Unreachable as error:
            self._store_pauses.failed(error)
            self._drop()
        except Refused as refusal:
            self._own_disk.refused(refusal)
            self._drop()
        except OSError as error:
            if not self._own_disk.failed(error):
                log.exception("turn.failed")
            self._drop()
        except Exception:  # a bug of ours between messages: logged, and tried again, for half a hub serves a fleet better than none
            log.exception("turn.failed")
            self._drop()

    def _read(self) -> None:
        """Read a share of every lane, so that all of them go on whatever fills one. What is not taken waits where it is bounded."""
        due = self._serving.wants.due_seconds if self._online and self._serving is not None else None
        began = self._monotonic()
        self._inbox.wait(TURN_SECONDS if due is None else min(TURN_SECONDS, due))
        waited = self._monotonic() - began
        lost = self._inbox.lost()
        if lost is not None:
            self._link.ack_all(lost.unacknowledged)
        self._floods.report(lost)
        self._gather()
        for event in self._inbox.events():
            if isinstance(event, OtherFleet):
                self._met(event)
            else:
                self._handle_all([self._link.parse(event)])
        found, full = 0, False
        for lane in LANES:
            until = self._monotonic() + LANE_SECONDS
            while messages := self._inbox.take(lane, AT_ONCE.get(lane, 4)):
                found += len(messages)
                self._metrics.took(lane, len(messages))
                self._handle_all([self._link.parse(message) for message in self._mine(messages)])
                if self._monotonic() >= until:
                    full = full or self._inbox.count(lane) > 0
                    break
        self._listening.took(found, waited=waited, full=full)

    def _gather(self) -> None:
        """Wait a moment for more while nothing but windows comes."""
        until = self._monotonic() + GATHER_SECONDS
        while 0 < self._inbox.only("telemetry") < BATCH_WINDOWS and self._monotonic() < until:
            self._sleep(GATHER_SECONDS / 4)

    def _mine(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages that are for this process; the others are another's to take in."""
        if self._ingesting is None:
            return messages
        foreign = [one for one in messages if self._ingesting.is_foreign(one)]
        if not foreign:
            return messages
        self._link.ack_all(foreign)
        left = {id(one) for one in foreign}
        return [one for one in messages if id(one) not in left]

    def _tick(self) -> None:
        if self._processes is not None:
            lacks = self._controlling.lacks_keys if self._controlling is not None else frozenset[str]()
            packet = self._packet_bytes_max if self._ever_online else None
            self._processes.tick(listens=self._listening.runs, packet_bytes_max=packet, lacks_keys=lacks)
        self._listening.tick()
        if self._online and self._serving is not None:
            self._serving.wants.tick()
        now = self._monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._work(self._enrolling.tick)
            for role in self._roles:
                role.tick(self._work, online=self._online)
            for role in self._roles:
                role.tick_last(self._work)

    def _work(self, tick: Callable[[], object]) -> None:
        """Give one part its turn; what it refuses (a repository that was damaged) must not keep the others from theirs."""
        try:
            tick()
        except Refused as refusal:
            self._own_disk.work_refused(refusal)

    def _handle_all(self, events: list[HubEvent]) -> None:
        """Give each role what it reads, then acknowledge."""
        for role in self._roles:
            role.take(events, self._handle_by)
        for event in events:
            self._handle(event)

    def _handle(self, event: HubEvent) -> None:
        match event:
            case Connected():
                self._connected(event)
            case Disconnected():
                self._disconnected(event)
            case Subscribed(_, refused):
                self._listening.subscribed(denied=bool(refused))
                self._subscriptions -= 1
                if self._controlling is not None and self._subscriptions <= 0:
                    self._controlling.rivals.subscribed()
                if refused:
                    log.error("subscribe.denied", filters=refused)
            case Unreadable(refusal, message):
                self._notes.refusal(refusal, message.topic)
                self._link.ack(message)
            case Cleared(message):
                self._link.ack(message)
            case Published() | WantArrived() | OwnTopic() | PresenceArrived() | StateArrived() | ReceiptArrived() | WindowArrived():
                pass  # taken already, by its role

    # The broker

    def _connect(self) -> None:
        self._again.attempted(self._monotonic(), self._rng.random())
        try:
            self._link.open()
            self._again.answering(self._monotonic(), CONNACK_SECONDS)
        except Unreachable as error:
            log.warning("broker.unreachable", reason=str(error), again_seconds=round(self._again.due_at - self._monotonic(), 1))

    def _connected(self, event: Connected) -> None:
        log.info("broker.connected", session_present=event.session_present, retain_available=event.retain_available)
        self._online = True
        self._again.accepted(self._monotonic())
        self._packet_bytes_max = event.packet_bytes_max
        shared = [kind for role in self._roles for kind in role.shared] if event.shared_available else []
        if self._ingesting is not None:
            self._ingesting.connected(event)
        kinds = [kind for kind in NODE_KINDS if any(kind in role.kinds for role in self._roles)]
        guards = any(role.guards for role in self._roles)
        if self._serving is not None:
            self._serving.connected(event)
        self._subscriptions = self._link.subscribe(kinds, shared=shared, guards=guards)
        self._listening.connected(self._subscriptions)
        if self._controlling is not None:
            self._controlling.connected(event)
            self._work(self._controlling.announce)
        if not self._ever_online:
            self._ever_online = True
            self._write_ready()

    def _disconnected(self, event: Disconnected) -> None:
        wait = self._again.ended(self._monotonic(), self._rng.random(), taken_over=event.taken_over)
        log.warning("broker.disconnected", reason=event.reason, again_seconds=round(wait, 1))
        if event.reason != DROPPED and (event.taken_over or self._again.short_in_a_row >= SHORT_CONNECTIONS_MIN):
            self._taken_over.report(event, client_id=self._shared_broker.client_id, now=self._monotonic(), at=int(self._wall()))
        self._listening.disconnected()
        self._online = False

    def _met(self, event: OtherFleet) -> None:
        """Leave a session that another fleet's hub uses, too: at once, or for longer and longer where it is the only one to be had."""
        if self._online:
            moves = self._shared_broker.met(event.fleet, now=self._monotonic())
            self._disconnected(Disconnected(DROPPED, taken_over=not moves))

    def _make_room(self) -> None:
        """Leave the broker to the other hub, with a word for it."""
        if self._controlling is not None:
            self._controlling.rivals.stand_down()
        self._link.close()
        self._disconnected(Disconnected(DROPPED))

    def _drop(self) -> None:
        """Drop the connection, so that what was not acknowledged comes again after a while."""
        if self._online:
            self._link.drop()
            self._disconnected(Disconnected(DROPPED))
        self._again.fail(self._monotonic())
        self._sleep(TURN_SECONDS)

    def _publish_insight(self, document: MergedWindow | Drift | Alert, *, retain: bool = False) -> None:
        if not self._online:
            return  # it is in the store, and the newest drift is published again to a broker that has none
        try:
            self._link.publish_insight(document, retain=retain)
        except Unreachable as error:
            log.warning("insight.failed", reason=str(error))

    def _write_ready(self) -> None:
        facts = {
            "pid": os.getpid(),
            "fleet": self._settings.fleet,
            "broker_url": self.broker_url,
            "broker_pid": self._broker.pid if self._broker is not None else None,
            "packet_bytes_max": self._packet_bytes_max,
            "enrolment_port": self._enrolling.port,
            "metrics_port": self._metrics.port,
            "web_url": self.web_url,
        }
        path = self._directory / ready_name(self._settings)
        durable.write(path, json.dumps(facts).encode(), synced=False)  # a hub that a power cut ended is not ready
