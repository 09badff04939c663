"""The role `controller`: move rollouts, sign, announce, test for drift. One process leads, and others stand by."""

from collections.abc import Callable, Mapping
from functools import partial

from fleetcast.mqtt_connection import Connected
from hub.core.rollouts import fleet
from hub.database.node_commands import NodeCommands
from hub.publish.check_results import Checks
from hub.service.broker.mqtt import HubEvent, OwnTopic, PresenceArrived
from hub.service.delivery.announce import Announcer, Signers
from hub.service.delivery.online_keys import LoadKey, OnlineKeys, place_in_words
from hub.service.enrol.enrolment_service import Enrolling
from hub.service.housekeeping import Housekeeping
from hub.service.nodes.device_settings import SettingsKeeper
from hub.service.roles.rival_hubs import RivalHubs
from hub.service.roles.shared_parts import Common, Handle, Role, Work
from hub.service.rollouts.controller import Controller
from hub.service.rollouts.release_history import ReleaseHistory
from hub.service.telemetry.drift_job import Settling
from hub.service.telemetry.receipt_requests import ReceiptRequests
from hub.signing.signatures import ReplaceableSigner
from schemas.errors import Code, Refused

UNJUDGED_MAX = 4096  # Topics of the hub on which something came before it leads.
SETTLE_SECONDS = 1.0  # a turn's share for testing intervals: after days without a hub there are thousands, and an operator is not to wait


class Controlling(Role):
    """Lead the fleet."""

    guards = True

    def __init__(
        self,
        common: Common,
        enrolling: Enrolling,
        *,
        signers: Signers,
        load_key: LoadKey | None,
        nodes: Mapping[str, fleet.Node],
        follow: Callable[[], object],
        is_online: Callable[[], bool],
        settled: Callable[[str, str, bytes, int], None],
    ) -> None:
        self._common, self._follow, self._is_online = common, follow, is_online
        self._online_keys: OnlineKeys | None = None
        self._unjudged: dict[str, OwnTopic] = {}  # By topic: what the broker retained before this hub knew that it leads.
        self._commands = NodeCommands(common.store.database)
        if load_key is not None:
            signers = self._replaceable(signers, load_key)
        settings, store, wall, monotonic = common.settings, common.store, common.wall, common.monotonic
        self.announcer = Announcer(
            repository=common.repository,
            link=common.link,
            notes=common.notes,
            signers=signers,
            wall=wall,
            monotonic=monotonic,
            announced=common.traces.announced,
            held=lambda: fleet.held(nodes.values()),
        )
        self.settling = Settling(
            store=store,
            notes=common.notes,
            releases=common.releases,
            publish=common.publish,
            settled=settled,
            cohort_nodes_min=settings.cohort_nodes_min,
            settle_seconds=settings.settle_seconds,
            trim_outlying=settings.trim_outlying,
            alpha=settings.alpha,
            run_length=settings.run_length,
            clock=wall,
        )
        checks, required = Checks(common.directory / "checks"), settings.checks_required
        self.controller = Controller(
            repository=common.repository,
            store=store,
            notes=common.notes,
            nodes=nodes,
            signer=signers.rollouts,
            random_bytes=common.rng.randbytes,
            wall=wall,
            monotonic=monotonic,
            listening=common.listening,
            cohort_nodes_min=settings.cohort_nodes_min,
            traces=common.traces,
            speaks_against=lambda manifest: checks.against(manifest, required) if required else (),
        )
        self._history = ReleaseHistory(store.database, listening=common.listening, wall=wall, monotonic=monotonic)
        self._housekeeping = Housekeeping(store, settings, needed_from=self.controller.needed_from, monotonic=monotonic)
        self.node_settings = SettingsKeeper(
            repository=common.repository,
            store=store,
            nodes=nodes,
            is_forgotten=lambda node: enrolling.roll.forgotten(node) is not None,
            publish=common.link.retain_settings,
            signer=signers.rollouts,
            wall=wall,
            monotonic=monotonic,
        )
        self.rivals = RivalHubs(
            common.directory,
            settings,
            link=common.link,
            repository=common.repository,
            notes=common.notes,
            signer=signers.rollouts,
            random_bytes=common.rng.randbytes,
            wall=wall,
            monotonic=monotonic,
        )
        self._receipt_requests = ReceiptRequests(nodes, ask=common.link.ask_for_receipts, listening=common.listening, monotonic=monotonic)

    def _replaceable(self, signers: Signers, load_key: LoadKey) -> Signers:
        """Return signers that follow the metadata to other keys, and make what replaces them."""
        keys = {name: ReplaceableSigner(getattr(signers, name)) for name in ("snapshot", "timestamp", "rollouts")}
        self._online_keys = OnlineKeys(
            repository=self._common.repository,
            keys=keys,
            load=load_key,
            notes=self._common.notes,
            place=place_in_words(self._common.directory),
            wall=self._common.wall,
            monotonic=self._common.monotonic,
        )
        return Signers(**keys)

    @property
    def lacks_keys(self) -> frozenset[str]:
        """Return the roles that this process cannot sign, because their keys are not here."""
        return self._online_keys.lacks if self._online_keys is not None else frozenset()

    def connected(self, event: Connected) -> None:
        """Publish everything again that a broker without memory lacks."""
        self.rivals.connected()
        if not event.session_present:
            self.announcer.forgot()
            self.node_settings.forgot()
            for drift in self.settling.newest():
                self._common.publish(drift, retain=True)

    def take(self, events: list[HubEvent], handle: Handle) -> None:
        """Guard the hub's own topics."""
        for event in events:
            if isinstance(event, PresenceArrived):
                handle.one(event.message, partial(self.rivals.heard, event))
            if isinstance(event, OwnTopic):
                handle.one(event.message, partial(self._guard, event))

    def announce(self) -> None:
        """Publish what is to be published, on a connection that has just begun."""
        if self.rivals.standing == "leads":
            self.announcer.tick(online=True)

    def tick(self, work: Work, *, online: bool) -> None:
        """Answer operators, sign and announce."""
        work(self._follow)
        if (standing := self.rivals.standing) != "leads":
            if standing == "down":
                work(self._refuse_commands)
            return
        work(lambda: self.rivals.tick(online=online))
        if self._online_keys is not None:
            work(self._online_keys.tick)  # before anything signs
        work(self.controller.tick)  # operators are answered before anything else
        work(lambda: self.node_settings.tick(online=online))
        work(lambda: self.announcer.tick(online=online))
        while self._unjudged and self.announcer.has_signed:
            self._judge_again(self._unjudged.popitem()[1])
        work(self._receipt_requests.tick)

    def leave(self) -> None:
        """Say that this hub leads no more."""
        self.rivals.leave(online=self._is_online())

    def _guard(self, event: OwnTopic) -> None:
        """Check what came on a topic of the hub's, once it is known what belongs there."""
        if self.rivals.standing == "leads" and self.announcer.has_signed:
            self.announcer.guard(event)
        elif len(self._unjudged) < UNJUDGED_MAX:
            self._unjudged[event.message.topic] = event

    def _judge_again(self, event: OwnTopic) -> None:
        try:
            self.announcer.guard(event)
        except Refused as refusal:
            self._common.notes.refusal(refusal, event.message.topic)

    def _refuse_commands(self) -> None:
        """Answer operators, whose commands are for another hub."""
        code, why = str(Code.HUB_DUPLICATE), self.rivals.why
        for command in self._common.store.open_commands():
            self._common.store.finish_command(command.id, ok=False, text=why, code=code)
        while (waiting := self._commands.oldest_open()) is not None:
            self._commands.finish(waiting.id, text=why, code=code)

    def tick_last(self, work: Work) -> None:
        """Test intervals, and keep the database small."""
        if self.rivals.standing == "down":
            return
        began = self._common.monotonic()
        work(lambda: self.settling.tick(lambda: self._common.monotonic() - began >= SETTLE_SECONDS))
        work(self._history.tick)
        work(self._housekeeping.tick)
