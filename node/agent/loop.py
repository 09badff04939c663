"""Run the node's one loop: an inbox of events, the cores that decide, the shells that do.

Threads: this one owns the store, the disk and every decision. paho's network thread and the serving thread only put events into the inbox.
"""

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import ParamSpec, assert_never

import structlog

from fleetcast.mqtt_connection import (
    BoundedClient,
    Cleared,
    Connected,
    Disconnected,
    MakeClient,
    Published,
    Subscribed,
    TlsFiles,
    Unreadable,
)
from fleetcast.time_zones import system_zone, zone_of
from node.agent.activation.manifests import Manifests
from node.agent.activation.parameters import Parameters
from node.agent.activation.rollout_traces import RolloutTraces
from node.agent.activation.slots import Slots
from node.agent.activation.staging import expect
from node.agent.connecting import Connecting, in_thread
from node.agent.delivery.block_sources import BlockSources
from node.agent.delivery.byte_quota import ByteQuota
from node.agent.delivery.transfers import Delivery
from node.agent.enrol.certificate_renewal import Renewing
from node.agent.events import (
    ConnectionOpened,
    EndpointAnswered,
    Event,
    Incoming,
    LocalEvent,
    Parsed,
    TransferEnded,
    TransferStalled,
    WorkerGone,
    WorkerReady,
)
from node.agent.inbox import Inbox
from node.agent.listen_socket import listen_of
from node.agent.reports.agent_status import StatusWriter
from node.agent.reports.reporter import Reporter
from node.agent.reports.standing_findings import StandingFindings
from node.agent.reports.state_reports import StateReports
from node.agent.storage.disk_trouble import DiskTrouble
from node.agent.storage.store_rebuild import Traces, contradiction_of, rebuild
from node.agent.telemetry.served_requests import ServedRequests
from node.agent.telemetry.windows import Telemetry
from node.agent.trust.device_settings import HubSettings
from node.agent.trust.resubscriptions import Resubscriptions
from node.agent.trust.retained_requests import TRUST, RetainedRequests
from node.agent.trust.trust_state import TrustState
from node.broker.mqtt import (
    BlockArrived,
    ConnectionEvent,
    DeploymentsArrived,
    DocumentEvent,
    IndexArrived,
    ModelArrived,
    NodeLink,
    ReceiptsAsked,
    RolesArrived,
    SettingsArrived,
    TimeArrived,
    TrustArrived,
    WindowsAsked,
)
from node.core.settings.effective_settings import EffectiveSettings
from node.core.trust.clock import MonotonicClock, MonotonicSeconds, SignedClock, WallClock
from node.host.service_manager import Notify
from node.host.site_parameters import Overrides
from node.runtimes import probe
from node.serving.accuracy_route import LabelsReported
from node.serving.server import MakeServer, Server
from node.settings import NodeSettings
from node.storage.artifacts import Artifacts
from node.storage.sideload import Sideload
from node.storage.store import NodeStore
from node.trust.tuf_client import Trust
from node.workers.device_profile import profile
from schemas.errors import Code, Refused, Unreachable
from schemas.selectors import NodeFacts
from schemas.state import FindingKind

log = structlog.get_logger()
P = ParamSpec("P")

TURN_SECONDS = 0.2  # how long the loop sleeps when nothing happens
BATCH_EVENTS = 64  # events taken in one turn, so that blocks are written and synced together


class Agent:
    """Run one node. `run` is `begin`, `turn` again and again, and `leave`.

    The clocks, `inbox`, `make_client` and `make_server` are others in a simulated fleet.
    """

    def __init__(
        self,
        settings: NodeSettings,
        *,
        pinned_root: bytes,
        wall: WallClock,
        monotonic: MonotonicClock,
        rng: Random,
        inbox: Inbox | None = None,
        make_client: MakeClient = BoundedClient,
        make_server: MakeServer = Server,
    ) -> None:
        clock, machine = SignedClock(), wall
        wall = clock.over(machine, monotonic)
        self._settings, self._wall, self._monotonic, self._rng = settings, wall, monotonic, rng
        self._inbox = inbox if inbox is not None else Inbox()
        self._sampling = Random(rng.getrandbits(64))  # used by the serving thread alone
        self._make_client, self._make_server, self._online = make_client, make_server, False
        self._open_disk(pinned_root)
        self._make_connection(clock, machine)
        self._make_serving()
        self._make_delivery()
        self._make_activation()
        self._make_reports()
        self._pause: Callable[[float], object] = lambda seconds: None

    def _open_disk(self, pinned_root: bytes) -> None:
        """Open what this device keeps: its database, models and trusted metadata. A lost database is rebuilt from the others."""
        settings = self._settings
        self._store = NodeStore.of_agent(settings.data / "node.sqlite")
        self._artifacts = Artifacts(settings.data / "artifacts")
        unloadable = probe.unloadable(settings.data)
        for name, reason in unloadable.items():
            log.warning("runtime.unloadable", runtime=name, reason=reason)
        self._profile = profile(settings, unloadable=unloadable)
        self._manifests = Manifests(self._artifacts, self._profile, unloadable=unloadable)
        self._trust = Trust(settings.data / "trust", pinned_root)
        self._sideload = Sideload(settings.data / "carried")
        if contradiction := contradiction_of(self._store.slots(), self._artifacts):
            self._store.begin_anew(contradiction)
        if self._store.is_new:
            rebuild(self._store, self._artifacts, self._manifests, Traces.of(settings, self._trust), now=int(self._wall()))

    def _make_connection(self, clock: SignedClock, machine: WallClock) -> None:
        """Make the device's certificate, its link to the broker, and the reports that leave over it."""
        settings, monotonic = self._settings, self._monotonic
        self._renewing = Renewing(
            settings,
            store=self._store,
            clock=clock,
            wall=machine,
            monotonic=monotonic,
            rng=self._rng,
            moved=lambda broker: self._link.move(broker),  # noqa: PLW0108  # link and trust state come after
            take_trust=lambda bundle: self._trust_state.take_trust(bundle),  # noqa: PLW0108
        )
        self._connecting = Connecting(
            node=settings.id, store=self._store, wall=self._wall, monotonic=monotonic, rng=self._rng, post=self._inbox.put
        )
        self._link = NodeLink(
            settings.broker,
            fleet=settings.fleet,
            node=settings.id,
            inbox=self._inbox,
            tls=TlsFiles(settings.tls_ca, settings.tls_certificate, settings.tls_key) if settings.tls_ca else None,
            now=self._connecting.now,
            make_client=self._make_client,
            process=f"{self._rng.getrandbits(64):016x}",
        )
        self._reporter = Reporter(
            node=settings.id,
            store=self._store,
            link=self._link,
            identity=lambda: self._renewing.identity,
            wall=self._wall,
            monotonic=monotonic,
            rng=self._rng,
            windows=settings.telemetry,
        )

    def _make_serving(self) -> None:
        """Make the local server, and the telemetry that counts what it answers."""
        settings = self._settings
        self._telemetry = Telemetry(
            store=self._store,
            topic=self._link.topics.telemetry,
            cohort=settings.cohort,
            rho_day_max=settings.rho_day_max,
            grace_seconds=settings.grace_seconds,
            idle_seconds=settings.idle_seconds,
            witness=settings.witness,
            waiting_max=settings.windows_waiting_max,
            waiting_bytes_max=settings.windows_waiting_bytes_max,
            labels_wait_seconds=settings.labels_wait_seconds,
            sends=settings.telemetry,
            clock=self._wall,
        )
        self._served = ServedRequests(self._telemetry, self._sampling, self._inbox)
        self._address, self._findings = listen_of(settings), StandingFindings()
        self.server = self._make_server(
            self._address, node=settings.id, on_rows=self._served.observe, on_labels=self._served.labels_reported
        )
        self.server.on_worker_exit = lambda *said: self._inbox.put(WorkerGone(*said))

    def _make_delivery(self) -> None:
        """Make what decides which releases this device fetches, and the transfer of their blocks within its byte quota."""
        settings, wall, monotonic = self._settings, self._wall, self._monotonic
        self._quota = ByteQuota(
            self._store,
            link=settings.link,
            link_file=settings.link_file,
            policies=settings.budgets,
            rate_bytes_per_second_max=settings.rate_bytes_per_second_max,
            wall=wall,
            zone=zone_of(settings.time_zone) if settings.time_zone else system_zone(),
            found=lambda refusals: self._findings.put("site", "link_file", refusals),
        )
        self._requests = RetainedRequests(self._rng)
        self._hub_settings = HubSettings(
            settings,
            store=self._store,
            trust=self._trust,
            wall=wall,
            refused=self._reporter.refusal,
            findings=self._findings,
            public_key=lambda: self._renewing.identity.public_key,
        )
        self._trust_state = TrustState(
            settings,
            store=self._store,
            trust=self._trust,
            carried=self._sideload,
            wall=wall,
            monotonic=monotonic,
            requests=self._requests,
            link=self._link,
            facts=lambda: NodeFacts(settings.id, self._profile.labels, self._profile.arch),
            refused=self._reporter.refusal,
            found=lambda: self._delivery.carried(self._monotonic()),
            findings=self._findings,
            look_at_settings=self._hub_settings.look_again,
        )
        self._traces = RolloutTraces.of(settings, self._trust_state.deployments_of, wall, monotonic)
        self._delivery = Delivery(
            store=self._store,
            artifacts=self._artifacts,
            link=self._link,
            sources=BlockSources(self._store, self._artifacts, self._sideload),
            quota=self._quota,
            window_bytes=settings.window_bytes,
            filters_per_subscribe=settings.filters_per_subscribe,
            window_blocks_max=settings.window_blocks_max,
            rng=self._rng,
            post=self._inbox.put,
            refused=self._reporter.refusal,
            make_room=lambda: self._slots.tidy(),  # noqa: PLW0108  # the slots come after
            disk_bytes_max=settings.disk_bytes_max,
            traces=self._traces,
        )

    def _make_activation(self) -> None:
        """Make the slots, which load, probe and roll back releases, and the parameters that they run with."""
        settings = self._settings
        self._parameters = Parameters(
            Overrides(settings.parameters_file or settings.data / "parameters.toml"),
            rollout_parameters=self._trust_state.parameters_of,
            refused=self._reporter.refusal,
            found=lambda subject, refusals: self._findings.put("site", f"parameters {subject}", refusals),
        )
        self._slots = Slots(
            store=self._store,
            artifacts=self._artifacts,
            fetcher=self._delivery,
            server=self.server,
            manifests=self._manifests,
            parameters=self._parameters,
            settings=settings,
            post=self._inbox.put,
            report=self._reporter.report,
            refused=self._reporter.refusal,
            serving_changed=self._served.serving_changed,
            carriage_of=self._trust_state.carriage_of,
            may_activate=self._trust_state.may_activate,
            monotonic=self._monotonic,
            traces=self._traces,
        )

    def _make_reports(self) -> None:
        """Make what reports the state, to the hub and to operators on this device, and the handling of a disk that fails."""
        self._state_reports = StateReports(
            self._settings,
            link=self._link,
            trust_state=self._trust_state,
            slots=self._slots,
            delivery=self._delivery,
            quota=self._quota,
            telemetry=self._telemetry,
            findings=self._findings,
            identity=lambda: self._renewing.identity,
            profile=lambda: self._profile,
            in_force=lambda: self._hub_settings.in_force,
            session=lambda: self._connecting.session,
            wall=self._wall,
        )
        self._status_writer = StatusWriter(
            self._settings,
            server=self.server,
            listen=str(self._address),
            inherited=self._address.fd is not None,
            state=lambda: self._state_reports.state("online"),
            in_force=lambda: self._hub_settings.in_force,
            policy=lambda: self._quota.policy,
            view=lambda: self._trust_state.view,
            rollouts=self._traces.ids,
            findings=self._findings,
            wall=self._wall,
            monotonic=self._monotonic,
            notify=Notify(),
        )
        self._reporter.on_refusal = self._status_writer.trouble
        self._subscriptions = Resubscriptions(self._link, self._rng, self._status_writer.denied)
        self._disk = DiskTrouble(
            self._store, self._status_writer, self._findings, self._monotonic, refused=self._reporter.refusal, acknowledge=self._link.ack
        )

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            Refused: the local port is taken; STORE_DAMAGED: the next start goes on with what else is on the disk.
        """
        self._pause = stop.wait
        self._connecting.apart = in_thread
        self._listen()
        try:
            self._begin()
            while not stop.is_set():
                self.turn()
        finally:
            self.leave()

    def begin(self) -> None:
        """Listen, and take up what was served and believed before.

        Raises:
            Refused: the local port is taken.
        """
        self._listen()
        self._begin()

    def _listen(self) -> None:
        expect(self.server, self._store.slots())
        self.server.start()

    def _begin(self) -> None:
        # First: labels decide which deployment is followed.
        self._hub_settings.begin(lambda found: self._apply(found, at_start=True))
        self._trust_state.begin(self._slots)
        self._hub_settings.changed = self._apply
        self._slots.resume(self._wall())
        self._status_writer.began()

    def turn(self) -> None:
        """Handle what came, and give every part its turn.

        Raises:
            Refused: STORE_DAMAGED: the next start goes on with what else is on the disk.
        """
        self._turn()
        if self._disk.damage is not None:
            raise self._disk.damage

    def _turn(self) -> None:
        self._disk.tick()
        if self._store.stuck:
            self._guarded(self._disk.write_down)
            if not self._store.stuck and self._online:
                self._connecting.begin_anew()
                self._link.close()  # Nothing was subscribed to: the next connection does.
        if not self._online and self._connecting.is_due:
            self._guarded(self._connecting.begin, self._link, alone=bool(self._store.stuck))
        events = [*self._disk.again(), *self._take_events()]
        blocks: list[BlockArrived] = []
        for event in events:
            if isinstance(event, BlockArrived):
                blocks.append(event)
                continue
            if blocks:
                self._guarded(self._delivery.arrived, blocks, self._monotonic())
                blocks = []
            if self._guarded(self._handle, event) or self._disk.defers(event):
                continue
            self._failed(event)
        if blocks:
            self._guarded(self._delivery.arrived, blocks, self._monotonic())
        if not self._guarded(self._tick):
            self._pause(TURN_SECONDS)
        self._guarded(self._status_writer.tick)

    def _failed(self, event: Event) -> None:
        """Make room for other messages; what the hub retains is asked for again after a pause, anything else would only come again."""
        match event:
            case TrustArrived():
                self._trust_state.failed(TRUST)
            case ModelArrived(bundle):
                self._trust_state.failed(bundle.model)
            case TimeArrived() | RolesArrived() | IndexArrived() | DeploymentsArrived():
                self._trust_state.failed_at(event)
        if isinstance(event, DocumentEvent):
            self._link.ack(event.message)

    def _guarded(self, do: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> bool:
        """Return whether it went well. One message, or one bug of ours, must not end the serving of models: it is logged loudly instead."""
        try:
            do(*arguments, **named)
        except Unreachable as error:
            log.warning("broker.unreachable", reason=str(error))
        except Exception as error:
            if self._disk.explains(error):
                return False
            log.exception("bug.survived", doing=getattr(do, "__name__", "?"))
            self._status_writer.trouble(f"a bug of fleetcast was survived: {type(error).__name__}: {error}")
            return False
        return True

    def _take_events(self) -> list[Parsed]:
        """Return what a turn handles: at most one document, for each may take the time of many signatures."""
        found: list[Parsed] = []
        for message in self._inbox.let_go():
            self._link.ack(message)
        if dropped := self._inbox.dropped():
            log.warning("inbox.flooded", dropped=dropped)
            self._status_writer.trouble(f"the broker sends more than this node can read: {dropped} messages were dropped")
        with suppress(queue.Empty):
            found.append(self._parse(self._inbox.get(timeout=0 if self._delivery.busy else TURN_SECONDS)))
            while len(found) < BATCH_EVENTS and not isinstance(found[-1], DocumentEvent):
                found.append(self._parse(self._inbox.get_nowait()))
        return found

    def _parse(self, event: Incoming) -> Parsed:
        return event if isinstance(event, LocalEvent) else self._link.parse(event)

    def _tick(self) -> None:
        now = self._monotonic()
        if self._parameters.look(now):
            self._slots.parameters_changed()
        if self._trust_state.view is not None:
            self._parameters.check_models(self._trust_state.known_models() | self._store.slots().keys())
        self._slots.tick(self._wall())
        if self._store.stuck:
            if self._online:
                self._state_reports.tick(now)
            return  # what is counted waits for the disk; nothing else may leave, arrive or be renewed that would not be durable
        self._renewing.tick(online=self._online)
        self._trust_state.look_at_clock(now)
        self._trust_state.look_at_deadlines(now)
        self._trust_state.look_at_owed(now)
        self._trust_state.look_for_carried(now)
        self._hub_settings.tick(now)
        self._delivery.tick(now)
        if self._online:
            self._trust_state.tick(now)
            self._subscriptions.tick(now)
            self._ask_again(now)
            self._state_reports.tick(now)
            self._reporter.send(windows=self._telemetry.may_leave)
        if self._telemetry.tick(self._wall()):
            log.info("outbox.filled", windows=self._store.count_waiting("window"))

    def _handle(self, event: Event) -> None:
        if isinstance(event, LocalEvent):
            self._handle_local(event)
        else:
            self._handle_broker(event)
            if isinstance(event, DocumentEvent):
                self._link.ack(event.message)
            self._disk.handled(event)

    def _handle_broker(self, event: ConnectionEvent | DocumentEvent) -> None:
        match event:
            case Connected():
                self._connected(event)
            case Disconnected():
                self._disconnected(event)
            case Subscribed(mid, refused):
                self._subscriptions.answered(mid, refused, self._monotonic())
                self._delivery.granted(mid, self._monotonic())
                self._trust_state.granted(mid)
            case Published(mid, is_unread, refused):
                self._reporter.published(mid, is_unread=is_unread, refused=refused)
            case TrustArrived():
                self._trust_state.take_trust(event.bundle)
            case ModelArrived():
                self._trust_state.take_model(event.bundle)
            case TimeArrived() | RolesArrived() | IndexArrived() | DeploymentsArrived():
                self._trust_state.take(event)
            case SettingsArrived():
                self._hub_settings.take(event.envelope)
            case ReceiptsAsked():
                self._slots.sign_again()
            case WindowsAsked():
                self._reporter.send_windows_again(event.request)
            case Unreadable(refusal, message):
                model = self._link.model_of(message.topic)
                self._reporter.refusal(refusal, model)
                kind: FindingKind = "settings" if self._link.is_settings(message.topic) else "model" if model else "trust"
                self._findings.put(kind, model, [refusal])
            case Cleared():
                pass
            case _:
                assert_never(event)

    def _handle_local(self, event: LocalEvent) -> None:
        match event:
            case TransferEnded(model, target, refusal):
                self._slots.fetched(model, target, refusal, self._wall())
                self._sideload.remove(target.digest)
            case TransferStalled():
                self._slots.stalled(event, self._wall())
            case WorkerReady():
                self._slots.ready(event, self._wall())
            case WorkerGone():
                self._slots.worker_gone(event, self._wall())
            case EndpointAnswered():
                self._slots.endpoint_answered(event)
            case LabelsReported():
                self._telemetry.labels.reported(event)
            case ConnectionOpened(failure):
                if reason := self._connecting.opened(failure, online=self._online):
                    self._status_writer.disconnected(reason)
            case _:
                assert_never(event)

    # The connection

    def _connected(self, event: Connected) -> None:
        found = self._connecting.accepted(event)
        if found == "another's":
            self._link.close()
            return
        self._online = True
        self._subscriptions.connected()
        self._status_writer.connected()
        self._state_reports.connected()
        if self._store.stuck:
            return  # The hub hears how this node is; what arrived could not be kept.
        self._reporter.connected(session_present=found == "remembers")
        # Said each time: an earlier connection may have broken before its SUBSCRIBE arrived, and left a session that hears nothing.
        self._link.subscribe_settings(only_if_new=event.session_present)
        self._trust_state.connected(session_present=event.session_present)
        self._delivery.connected(session_present=event.session_present, now=self._monotonic())

    def _disconnected(self, event: Disconnected) -> None:
        reason = self._connecting.ended(event)
        if event.taken_over:
            self._reporter.refusal(Refused(Code.NODE_DUPLICATE, reason), "")
        self._online = False
        self._status_writer.disconnected(reason, short_connections=self._connecting.again.short_in_a_row)
        self._trust_state.disconnected()
        self._delivery.disconnected()

    def leave(self) -> None:
        """Write down what is counted, and tell the broker that this node leaves."""
        self._guarded(self._status_writer.left)
        self._guarded(self._slots.left)
        self._served.leave()
        self._guarded(self._disk.write_down_at_last, self._telemetry.checkpoint, self._telemetry.open_windows)
        if self._online:
            self._link.publish_state(self._state_reports.state("disconnected"))
            self._link.close()
        self.server.stop()
        self._guarded(self._traces.stop)
        self._guarded(self._telemetry.labels.leave)
        self._disk.close()

    # What the hub says

    def _apply(self, found: EffectiveSettings, *, at_start: bool = False) -> None:
        """Have every part go by what is now in force of the settings that the site's file and the hub give."""
        self._profile = self._profile.model_copy(update={"labels": dict(found.labels)})
        self._manifests.put_profile(self._profile)
        self._telemetry.put_sends(sends=found.telemetry)
        self._telemetry.cohorts.change(found.cohort, at=float("-inf") if at_start else float(self._wall()))
        self._reporter.windows = found.telemetry
        self._quota.put_policies(found.budgets)
        self._trust_state.relabelled()
        self._slots.changed = True  # The hub hears at once.

    def _ask_again(self, now: MonotonicSeconds) -> None:
        """Have the broker say again what it retains, and what has had no effect here."""
        if names := self._requests.due(now):
            log.info("retained.asked_again", names=sorted(name or "trust" for name in names))
            self._link.subscribe_again(self._trust_state.topics_of(names))
