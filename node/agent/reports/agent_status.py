"""Report how the agent is, beside the broker: `status.json` for commands, a word to the service manager, and its watchdog.

The watchdog is fed by the loop, and only when the serving thread has answered since the last time: so it says that both are alive. A turn
that hangs sends nothing, and a serving thread that hangs never answers.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from fleetcast.backoff import ENDED_SECONDS
from node.agent.reports.standing_findings import StandingFindings
from node.agent.reports.state_reports import reported
from node.core.delivery.byte_quota import Policy
from node.core.doctor.agent_health import WRITTEN_SECONDS_MAX, AgentStatus, Verdict, WorkerProcess, judge
from node.core.settings.effective_settings import EffectiveSettings
from node.core.trust.clock import NEVER, MonotonicClock, MonotonicSeconds, WallClock
from node.enrol.credentials import expires_at
from node.host.pidfile import write_status
from node.host.service_manager import FEEDINGS, Notify
from node.serving.server import Server
from node.settings import NodeSettings
from node.trust.tuf_client import View
from schemas.limits import TEXT_MAX
from schemas.names import sha256
from schemas.state import State

log = structlog.get_logger()

ENDED_KEPT = 64  # Times of ended connections; a doctor asks for a few.
LOOK_SECONDS = 2.0  # how often the status is looked at; it is written when it has changed, else every WRITTEN_SECONDS_MAX / 2


class StatusWriter:
    """Report how the agent is. Every method is called by the loop's thread; only the serving thread's answer comes from there."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        server: Server,
        listen: str,
        inherited: bool,
        state: Callable[[], State],
        view: Callable[[], View | None],
        in_force: Callable[[], EffectiveSettings],
        policy: Callable[[], Policy],
        findings: StandingFindings,
        wall: WallClock,
        monotonic: MonotonicClock,
        notify: Notify,
        rollouts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._settings, self._server, self._state, self._view = settings, server, state, view
        self._findings, self._in_force, self._policy = findings, in_force, policy
        self._listen, self._inherited, self._wall, self._monotonic, self._notify = listen, inherited, wall, monotonic, notify
        self._rollouts = rollouts
        self._started_at = self._since = int(wall())
        self._answered_at = self._started_at
        self._online, self._reason, self._error = False, "not connected yet", ""
        self._error_at: int | None = None
        self._denied = self._short_connections = 0
        self._ended = deque[MonotonicSeconds](maxlen=ENDED_KEPT)  # When connections ended.
        self.read_only = ""  # why nothing can be written
        self._certificate_expires: int | None = None
        self._loaded: dict[bytes, int | None] = {}
        self._asked_at = self._looked_at = NEVER
        self._answered = True
        self._written: AgentStatus | None = None
        self._sentence = ""

    def began(self) -> None:
        """Take in that local programs can connect."""
        self._certificate_expires = expires_at(self._settings.tls_certificate)
        self._notify.ready()
        self.tick()

    def connected(self) -> None:
        """Take in that the broker took us."""
        self._certificate_expires = expires_at(self._settings.tls_certificate)  # it may have been renewed
        self._denied = 0
        self._turn(True, "")

    def disconnected(self, reason: str, *, short_connections: int = 0) -> None:
        """Take in that the connection ended, or could not be made; `short_connections` ended in a row before they had lasted."""
        self._short_connections = short_connections or self._short_connections
        if self._online:
            self._ended.append(self._monotonic())
        self._turn(False, reason)

    def denied(self, filters: int) -> None:
        """Take in how many of our subscriptions the broker denies."""
        if filters > self._denied:
            self.trouble(f"the broker denies {filters} of our subscriptions")
        self._denied = filters

    def trouble(self, sentence: str) -> None:
        """Take in that something was refused, or went wrong and was survived."""
        self._error, self._error_at = sentence[:TEXT_MAX], int(self._wall())

    def tick(self) -> None:
        """Write the status and feed the watchdog, where that is due after a turn of the loop."""
        now = self._monotonic()
        self._feed(now)
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        self._write_changed(self._status(None))

    def left(self) -> None:
        """Write the last status: the agent ends."""
        self._notify.stopping()
        self._write(self._status(int(self._wall())))

    def _feed(self, now: MonotonicSeconds) -> None:
        seconds = self._notify.watchdog_seconds
        pause = min(LOOK_SECONDS, seconds / FEEDINGS) if seconds else LOOK_SECONDS
        if not self._answered or now - self._asked_at < pause:
            return
        if seconds:
            self._notify.watchdog()
        self._answered, self._asked_at = False, now
        self._server.ask_loaded(self._take_answer)

    def _take_answer(self, loaded: dict[bytes, int | None]) -> None:
        """Take the serving thread's answer, on that thread: plain stores, the flag last."""
        self._loaded = loaded
        self._answered_at = int(self._wall())
        self._answered = True

    def _turn(self, online: bool, reason: str) -> None:
        if online != self._online:
            self._since = int(self._wall())
        self._online, self._reason = online, reason[:TEXT_MAX] or self._reason
        self._looked_at = NEVER

    def _write_changed(self, status: AgentStatus) -> None:
        self._server.show(status)
        before = self._written
        moving = {"written_at": 0, "answered_at": 0}
        changed = before is None or before.model_copy(update=moving) != status.model_copy(update=moving)
        if changed or before is None or not 0 <= status.written_at - before.written_at < WRITTEN_SECONDS_MAX // 2:
            self._write(status)
        sentence = _sentence(status)
        if sentence != self._sentence:
            self._sentence = sentence
            self._notify.status(sentence)

    def _write(self, status: AgentStatus) -> None:
        try:
            write_status(self._settings.data, status)
        except OSError as error:  # a full disk keeps nobody from serving
            log.warning("status.not_written", reason=error.strerror)
        self._written = status

    def _status(self, ended_at: int | None) -> AgentStatus:
        state, view, in_force = self._state(), self._view(), self._in_force()
        return AgentStatus(
            node=self._settings.id,
            fleet=self._settings.fleet,
            pid=os.getpid(),
            software=state.software,
            started_at=self._started_at,
            written_at=int(self._wall()),
            ended_at=ended_at,
            listen=self._listen,
            key=sha256(state.public_key),
            online=self._online and ended_at is None,
            since=self._since,
            reason=self._reason,
            session=state.session,
            denied=self._denied,
            short_connections=self._short_connections,
            ended_connections=sum(self._monotonic() - at < ENDED_SECONDS for at in self._ended),
            link=state.link or "free",
            policy=self._policy(),
            labels=dict(in_force.labels),
            cohort=in_force.cohort,
            sends_telemetry=in_force.telemetry,
            hub_settings=reported(in_force),
            certificate_expires=self._certificate_expires,
            root_version=state.root_version,
            timestamp_version=state.timestamp_version,
            expires=int(view.expires.timestamp()) if view else None,
            timestamp_expires=int(view.timestamp_expires.timestamp()) if view else None,
            answered_at=self._answered_at,
            workers=tuple(WorkerProcess(digest=digest, pid=pid) for digest, pid in sorted(self._loaded.items())),
            slots=state.slots,
            rollouts={slot.model: self._rollouts[slot.model] for slot in state.slots if slot.model in self._rollouts},
            telemetry=state.telemetry,
            findings=self._findings.all(),
            error=self._error,
            error_at=self._error_at,
            read_only=self.read_only[:TEXT_MAX],
            supervised=self._notify.is_watched or "INVOCATION_ID" in os.environ,
            inherited=self._inherited,
            watchdog_seconds=self._notify.watchdog_seconds,
        )


def _sentence(status: AgentStatus) -> str:
    verdict = judge(status, running=True, now=status.written_at)
    served = ", ".join(f"{slot.model} {slot.serving_version}" for slot in status.slots if slot.serving_version)
    what = {Verdict.SERVING: f"serving {served}", Verdict.NOT_SERVING: f"not serving {served}"}.get(verdict, "nothing to serve yet")
    return f"{what}; {'connected' if status.online else f'not connected: {status.reason}'}"
