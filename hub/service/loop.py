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
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

import structlog

from fleetcast import durable
from fleetcast.backoff import SHORT_CONNECTIONS_MIN, Backoff, Reconnection
from fleetcast.block_server import BlockServer
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
from hub.core.rollouts import fleet
from hub.database.database_file import DatabaseFile
from hub.database.drift_queries import Findings
from hub.database.hearing import Hearing
from hub.database.place import place_of
from hub.database.store import Store
from hub.publish.blocks import open_blocks
from hub.publish.check_results import Checks
from hub.service.alerts.dispatch import Hooks
from hub.service.alerts.event_log import Notes
from hub.service.alerts.flood_alerts import Floods
from hub.service.broker import access_lists
from hub.service.broker.embedded import OwnBroker
from hub.service.broker.inbox import LANES, Inbox
from hub.service.broker.mqtt import (
    HubEvent,
    HubLink,
    OwnTopic,
    ReceiptArrived,
    StateArrived,
    WantArrived,
    WindowArrived,
)
from hub.service.delivery.announce import Announcer, Signers
from hub.service.delivery.blocks import Wants
from hub.service.delivery.online_keys import LoadKey, OnlineKeys
from hub.service.enrol.enrolment_service import Enrolling
from hub.service.folder_lock import locked
from hub.service.housekeeping import Housekeeping
from hub.service.metrics.hub_metrics import Counted, HubMetrics
from hub.service.nodes.device_settings import SettingsKeeper
from hub.service.own_disk import OWN_DISK, OwnDisk
from hub.service.rollouts.controller import Controller
from hub.service.rollouts.listening import ListeningClock
from hub.service.rollouts.release_history import ReleaseHistory
from hub.service.rollouts.release_lookup import Releases
from hub.service.rollouts.rollout_traces import RolloutTraces
from hub.service.telemetry.drift_evidence import Evidence
from hub.service.telemetry.drift_job import Settling
from hub.service.telemetry.ingest import Ingest
from hub.service.telemetry.receipt_requests import ReceiptRequests
from hub.settings import HubSettings
from hub.signing.certificate_authority import Authority
from hub.signing.signatures import ReplaceableSigner
from hub.signing.tuf_repository import Repository
from schemas.analytics_messages import Alert, Drift, MergedWindow
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import PACKET_BYTES_MAX
from schemas.topics import Topics

log = structlog.get_logger()
E = TypeVar("E", WindowArrived, ReceiptArrived, StateArrived)

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
SETTLE_SECONDS = 1.0  # a turn's share for testing intervals: after days without a hub there are thousands, and an operator is not to wait
FILE_SECONDS = 3.0  # between two looks whether the database is still the file that was opened
RETRY = Backoff(0.2, 30.0)
RIVAL_SECONDS = 6 * 3600.0  # between two alerts about a second hub
READY_NAME = "hub.ready"


class Service:
    """Run one hub. While it runs, `hub.ready` in the fleet's folder says its process id and where its broker is, for scripts.

    `run` is `begin`, `turn` again and again, and `leave`. The clocks, `sleep`, `inbox` and `make_client` are others in a simulated fleet.
    """

    def __init__(
        self,
        directory: Path,
        settings: HubSettings,
        *,
        signers: Signers,
        authority: Authority | None = None,
        load_key: LoadKey | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
        sleep: Callable[[float], object] = time.sleep,
        inbox: Inbox | None = None,
        make_client: MakeClient = BoundedClient,
    ) -> None:
        self._directory, self._settings, self._wall, self._monotonic, self._sleep = directory, settings, wall, monotonic, sleep
        self._rng = rng or Random()
        self._lock = locked(directory)
        self._inbox = inbox or Inbox(Topics(settings.fleet), settings, monotonic=monotonic)
        place = place_of(directory, settings.database_url, settings.database_password_file)
        self._store = Store(place, clock=wall)
        self._store.create()
        self._file = DatabaseFile(place)
        self._listening = ListeningClock(Hearing(self._store.database), monotonic=monotonic)
        self._notes = Notes(self._store, publish=self._publish_insight, clock=wall)
        self._own_disk = OwnDisk(self._notes, publish=self._publish_insight, wall=wall, monotonic=monotonic)
        self._floods = Floods(self._notes, wall=wall, monotonic=monotonic)
        self._broker = None
        if not settings.broker_url:
            self._broker = OwnBroker(directory / "broker", port=settings.broker_port, notes=self._notes, monotonic=monotonic)
        self._link = HubLink(self.broker_url, fleet=settings.fleet, inbox=self._inbox, tls=settings.tls, make_client=make_client)
        self._online = self._ever_online = False
        self.web_url: str | None = None  # Address of the API, where one runs beside this.
        self._packet_bytes_max = PACKET_BYTES_MAX
        self._again, self._rival_reported_at = Reconnection(RETRY), float("-inf")
        self._looked_at = float("-inf")
        self._online_keys: OnlineKeys | None = None
        self._repository, self._blocks = Repository(directory / "trust"), open_blocks(directory, settings)
        self._releases = Releases(self._repository, self._blocks.local)
        if load_key is not None:
            signers = self._replaceable(signers, load_key)
        self._make_delivery(signers)
        self._make_enrolment(authority)
        self._make_telemetry()
        self._make_rollouts(signers)
        self._make_alerts()
        self._make_metrics()

    def _replaceable(self, signers: Signers, load_key: LoadKey) -> Signers:
        """Return signers that follow the metadata to other keys, and make what replaces them."""
        keys = {name: ReplaceableSigner(getattr(signers, name)) for name in ("snapshot", "timestamp", "rollouts")}
        self._online_keys = OnlineKeys(
            repository=self._repository,
            keys=keys,
            load=load_key,
            notes=self._notes,
            wall=self._wall,
            monotonic=self._monotonic,
        )
        return Signers(**keys)

    def _make_delivery(self, signers: Signers) -> None:
        """Make what nodes fetch from: the server of blocks, and the announcer that keeps signed metadata published."""
        settings = self._settings
        server = BlockServer(
            cache_bytes_max=settings.cache_bytes_max,
            expiry_seconds=settings.cache_expiry_seconds,
            linger_seconds=settings.linger_seconds,
            again_seconds=settings.again_seconds,
        )
        local, releases = self._blocks.local, self._releases
        self._wants = Wants(server, store=self._store, blocks=local, releases=releases, link=self._link, clock=self._wall)
        self._wants.keep_to(settings, self._blocks, self._notes, monotonic=self._monotonic, arrived=self._inbox.wake)
        self._wants.traces = self._traces = RolloutTraces.of(settings, wall=self._wall, models=lambda: self._controller.models)
        self._announcer = Announcer(
            repository=self._repository,
            link=self._link,
            notes=self._notes,
            signers=signers,
            wall=self._wall,
            monotonic=self._monotonic,
            announced=self._traces.announced,
            held=lambda: fleet.held(self._ingest.nodes.values()),
        )

    def _make_enrolment(self, authority: Authority | None) -> None:
        """Make the service that gives devices their certificates, and takes them away."""
        self._enrolling = Enrolling(
            self._directory,
            self._settings,
            authority=authority,
            store=self._store,
            notes=self._notes,
            broker_url=self.broker_url,
            revoked=lambda node: self._ingest.forget(node),  # noqa: PLW0108  # it comes after
            wall=self._wall,
            monotonic=self._monotonic,
        )

    def _make_telemetry(self) -> None:
        """Make what takes nodes' reports in, and what tests the closed intervals for drift."""
        settings = self._settings
        self._ingest = Ingest(
            store=self._store,
            notes=self._notes,
            roll=self._enrolling.roll,
            look=self._enrolling.follow,
            releases=self._releases,
            silent_seconds=settings.silent_seconds,
            topic_of=self._link.topics.receipt,
            window_rows_max=settings.window_rows_max,
            window_age_days_max=settings.window_age_days_max,
            set_cohorts=lambda: self._node_settings.cohorts,
            random_bytes=self._rng.randbytes,
            clock=self._wall,
            listening=self._listening,
        )
        self._settling = Settling(
            store=self._store,
            notes=self._notes,
            releases=self._releases,
            publish=self._publish_insight,
            settled=self._ingest.settled,
            cohort_nodes_min=settings.cohort_nodes_min,
            settle_seconds=settings.settle_seconds,
            trim_outlying=settings.trim_outlying,
            alpha=settings.alpha,
            run_length=settings.run_length,
            clock=self._wall,
        )

    def _make_rollouts(self, signers: Signers) -> None:
        """Make the controller that moves releases through their stages, by what nodes report and checks find."""
        checks, required = Checks(self._directory / "checks"), self._settings.checks_required
        self._controller = Controller(
            repository=self._repository,
            store=self._store,
            notes=self._notes,
            nodes=self._ingest.nodes,
            signer=signers.rollouts,
            random_bytes=self._rng.randbytes,
            wall=self._wall,
            monotonic=self._monotonic,
            listening=self._listening,
            cohort_nodes_min=self._settings.cohort_nodes_min,
            traces=self._traces,
            speaks_against=lambda manifest: checks.against(manifest, required) if required else (),
        )
        self._history = ReleaseHistory(self._store.database, listening=self._listening, wall=self._wall, monotonic=self._monotonic)
        self._housekeeping = Housekeeping(self._store, self._settings, needed_from=self._controller.needed_from, monotonic=self._monotonic)

        self._node_settings = SettingsKeeper(
            repository=self._repository,
            store=self._store,
            nodes=self._ingest.nodes,
            is_forgotten=lambda node: self._enrolling.roll.forgotten(node) is not None,
            publish=self._link.retain_settings,
            signer=signers.rollouts,
            wall=self._wall,
            monotonic=self._monotonic,
        )

        self._receipt_requests = ReceiptRequests(
            self._ingest.nodes, ask=self._link.ask_for_receipts, listening=self._listening, monotonic=self._monotonic
        )

    def _make_alerts(self) -> None:
        """Make the delivery of alerts to webhooks and programs."""
        self._hooks = Hooks(
            self._directory,
            self._settings,
            store=self._store,
            evidence=lambda: Evidence(  # with a view of releases of its own: it is for another thread
                Findings(self._store.database),
                Releases(Repository(self._directory / "trust"), self._blocks),
                cohort_nodes_min=self._settings.cohort_nodes_min,
            ),
            clock=self._wall,
        )

    def _make_metrics(self) -> None:
        """Make what a monitoring system scrapes."""
        self._metrics = HubMetrics(
            self._directory,
            self._settings,
            counted=Counted(self._inbox, self._notes, self._floods, self._wants, self._settling.tests),
            nodes=self._ingest.nodes,
            models=lambda: self._controller.models,
            repository=self._repository,
            listening=self._listening,
            wall=self._wall,
            monotonic=self._monotonic,
        )

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
        for part in (self._enrolling, self._metrics, self._wants, self._hooks):
            part.start()

    def leave(self) -> None:
        """Leave politely, and let go of the fleet's folder."""
        (self._directory / READY_NAME).unlink(missing_ok=True)
        for part in (self._enrolling, self._metrics, self._wants, self._hooks):
            part.stop()
        with contextlib.suppress(Unreachable, Refused):
            self._ingest.save()
            self._listening.save()
        if self._ever_online:
            self._link.close()
        if self._broker is not None:
            self._broker.stop()
        self._traces.stop()
        self._store.close()
        self._lock.close()

    # One turn

    def turn(self) -> None:
        """Read what came, and give every part its turn."""
        try:
            if self._broker is not None and self._broker.revive():
                self._again.hurry()
                self._write_ready()
            if not self._online and self._monotonic() >= self._again.due_at:
                self._connect()
            self._read()
            self._tick()
            self._own_disk.worked()
            self._metrics.tick(online=self._online)
        except Unreachable as error:
            log.error("store.failed", reason=str(error))
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
        due = self._wants.due_seconds if self._online else None
        began = self._monotonic()
        self._inbox.wait(TURN_SECONDS if due is None else min(TURN_SECONDS, due))
        waited = self._monotonic() - began
        lost = self._inbox.lost()
        if lost is not None:
            self._link.ack_all(lost.unacknowledged)
        self._floods.report(lost)
        self._gather()
        for event in self._inbox.events():
            self._handle(self._link.parse(event))
        found, full = 0, False
        for lane in LANES:
            until = self._monotonic() + LANE_SECONDS
            while messages := self._inbox.take(lane, AT_ONCE.get(lane, 4)):
                found += len(messages)
                self._metrics.took(lane, len(messages))
                self._handle_all([self._link.parse(message) for message in messages])
                if self._monotonic() >= until:
                    full = full or self._inbox.count(lane) > 0
                    break
        self._listening.took(found, waited=waited, full=full)

    def _gather(self) -> None:
        """Wait a moment for more while nothing but windows comes."""
        until = self._monotonic() + GATHER_SECONDS
        while 0 < self._inbox.only("telemetry") < BATCH_WINDOWS and self._monotonic() < until:
            self._sleep(GATHER_SECONDS / 4)

    def _tick(self) -> None:
        self._listening.tick()
        if self._online:
            self._wants.tick()
        now = self._monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            if self._online_keys is not None:
                self._work(self._online_keys.tick)  # before anything signs
            self._work(self._controller.tick)  # operators are answered before anything else
            self._work(self._enrolling.tick)
            self._work(lambda: self._node_settings.tick(online=self._online))
            self._work(lambda: self._announcer.tick(online=self._online))
            self._work(self._ingest.tick)
            self._work(self._receipt_requests.tick)
            self._work(self._wants.report)
            self._clear_forgotten()
            self._work(lambda: self._settling.tick(lambda: self._monotonic() - now >= SETTLE_SECONDS))
            self._work(self._history.tick)
            self._work(self._housekeeping.tick)

    def _clear_forgotten(self) -> None:
        """Take the states of forgotten nodes off the broker, or a hub that loses its database would know them again."""
        while self._online and self._ingest.to_clear:
            self._link.clear_state(self._ingest.to_clear.pop())

    def _work(self, tick: Callable[[], object]) -> None:
        """Give one part its turn; what it refuses (a repository that was damaged) must not keep the others from theirs."""
        try:
            tick()
        except Refused as refusal:
            self._own_disk.work_refused(refusal)

    def _handle_all(self, events: list[HubEvent]) -> None:
        """Handle all windows in one transaction, acknowledged in one write, and so all states and receipts; the rest one by one."""
        states = [event for event in events if isinstance(event, StateArrived)]
        if states:
            self._take_many(states, self._ingest.states)
        windows = [event for event in events if isinstance(event, WindowArrived)]
        if windows:
            self._take_many(windows, self._ingest.windows)
        receipts = [event for event in events if isinstance(event, ReceiptArrived)]
        if receipts:
            self._take_many(receipts, self._ingest.receipts)
        for event in events:
            self._handle(event)

    def _handle(self, event: HubEvent) -> None:
        match event:
            case Connected():
                self._connected(event)
            case Disconnected():
                self._disconnected(event)
            case Published(mid):
                self._wants.published(mid)
            case Subscribed(_, refused):
                self._listening.subscribed(denied=bool(refused))
                if refused:
                    log.error("subscribe.denied", filters=refused)
            case Unreadable(refusal, message):
                self._notes.refusal(refusal, message.topic)
                self._link.ack(message)
            case Cleared(message):
                self._link.ack(message)
            case WantArrived():
                self._message(event.message, lambda: self._wanted(event))
            case StateArrived() | ReceiptArrived() | WindowArrived():
                pass  # taken already, with its batch
            case OwnTopic():
                self._message(event.message, lambda: self._announcer.guard(event))

    def _wanted(self, event: WantArrived) -> None:
        self._ingest.seen(event.node)
        self._wants.wanted(event)

    def _message(self, message: Message, handle: Callable[[], None]) -> None:
        """Handle, then acknowledge."""
        try:
            handle()
        except Unreachable:
            raise
        except Refused as refusal:
            if refusal.code in OWN_DISK:
                raise  # nothing is wrong with the message
            self._notes.refusal(refusal, message.topic)
        except Exception:
            log.exception("message.failed", topic=message.topic, bytes=len(message.payload))
        self._link.ack(message)

    def _take_many(self, events: Sequence[E], take: Callable[[Sequence[E]], None]) -> None:
        try:
            take(events)
        except (Unreachable, Refused):
            raise
        except Exception:  # one of them is a bug of ours: the others must not suffer for it
            log.exception("batch.failed", kind=type(events[0]).__name__, messages=len(events))
            for event in events:
                try:
                    take([event])
                except (Unreachable, Refused):
                    raise
                except Exception:
                    log.exception("message.failed", topic=event.message.topic, bytes=len(event.message.payload))
        self._link.ack_all(event.message for event in events)

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
        self._wants.connected(
            session_present=event.session_present, retain_available=event.retain_available, packet_bytes_max=event.packet_bytes_max
        )
        self._listening.connected(self._link.subscribe())
        if not event.session_present:
            self._announcer.forgot()
            self._node_settings.forgot()
            for drift in self._settling.newest():
                self._publish_insight(drift, retain=True)
        self._work(lambda: self._announcer.tick(online=True))
        if not self._ever_online:
            self._ever_online = True
            self._write_ready()

    def _disconnected(self, event: Disconnected) -> None:
        wait = self._again.ended(self._monotonic(), self._rng.random(), taken_over=event.taken_over)
        log.warning("broker.disconnected", reason=event.reason, again_seconds=round(wait, 1))
        if event.reason != DROPPED and (event.taken_over or self._again.short_in_a_row >= SHORT_CONNECTIONS_MIN):
            self._report_rival(event)
        self._listening.disconnected()
        self._online = False

    def _report_rival(self, event: Disconnected) -> None:
        """Alert that a second hub seems to run, once in a long while: not every broker says who ended the connection."""
        now = self._monotonic()
        if now - self._rival_reported_at < RIVAL_SECONDS:
            return
        self._rival_reported_at = now
        why = "another client has connected as `hub`" if event.taken_over else "connections to the broker end soon after they begin"
        text = f"{why}: a second hub of this fleet seems to run, perhaps on the host that the fleet has left ({event.reason})"
        self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(Code.HUB_DUPLICATE), text=text))

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
        durable.write(self._directory / READY_NAME, json.dumps(facts).encode(), synced=False)  # a hub that a power cut ended is not ready
