"""Gather the hub's figures in its loop, every few seconds and never for more than a hundredth of its time, and show them."""

import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from hub.core.rollouts.deployments import Model
from hub.core.rollouts.fleet import Node
from hub.service.alerts.event_log import Notes
from hub.service.alerts.flood_alerts import Floods
from hub.service.broker.inbox import LANES, Inbox
from hub.service.delivery.blocks import Wants
from hub.service.metrics.endpoint import MetricsEndpoint
from hub.service.metrics.exposition import encode
from hub.service.metrics.figures import Figures, nodes_by_status, rollout_figures
from hub.service.rollouts.listening import ListeningClock
from hub.settings import HubSettings
from hub.signing.tuf_repository import Repository
from schemas.errors import Refused

log = structlog.get_logger()

GATHER_SECONDS = 5.0  # Between two looks.
GATHER_SHARE = 100  # And at least this many times what a look takes: 100,000 nodes must not fill the loop.
EXPIRY_SECONDS = 600.0  # Between two looks at the signed metadata, which are files.
PAGE_BYTES = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Counted:
    """Hold the parts of a hub that count what they do, since its start."""

    inbox: Inbox
    notes: Notes
    floods: Floods
    wants: Wants | None
    tests: Mapping[str, int]


class HubMetrics:
    """Count what the loop reports, and show it where `metrics_port` is set; does nothing where it is not."""

    def __init__(
        self,
        directory: Path,
        settings: HubSettings,
        *,
        counted: Counted,
        nodes: Mapping[str, Node],
        models: Callable[[], Iterable[Model]],
        repository: Repository,
        listening: ListeningClock,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._directory, self._settings, self._wall, self._monotonic = directory, settings, wall, monotonic
        self._counted = counted
        self._nodes, self._models, self._repository, self._listening = nodes, models, repository, listening
        self._software = version("fleetcast") if settings.metrics_port is not None else ""
        self._messages = Counter[str](dict.fromkeys(LANES, 0))
        self._expires: dict[str, float] = {}
        self._connected, self._changed_at = False, wall()
        self._gather_at = self._expiry_at = float("-inf")
        self._turned_at = wall()
        self._figures = Figures(gathered_at=wall())
        self._endpoint: MetricsEndpoint | None = None
        if settings.metrics_port is not None:
            self._endpoint = MetricsEndpoint(settings.metrics_host, settings.metrics_port, self._answer)

    @property
    def port(self) -> int | None:
        """Return where it listens; None where nothing is shown."""
        return self._endpoint.port if self._endpoint is not None else None

    def start(self) -> None:
        """Listen for scrapers.

        Raises:
            Refused: the port is taken.
        """
        if self._endpoint is not None:
            self._gather()
            self._endpoint.start()

    def stop(self) -> None:
        """Listen no more."""
        if self._endpoint is not None:
            self._endpoint.stop()

    def took(self, lane: str, messages: int) -> None:
        """Count messages that the loop has read."""
        self._messages[lane] += messages

    def tick(self, *, online: bool) -> None:
        """Take note of a turn of the loop, and gather when it is time."""
        if self._endpoint is None:
            return
        now = self._monotonic()
        self._turned_at = self._wall()
        if online != self._connected:
            self._connected, self._changed_at = online, self._turned_at
            self._gather_at = now
        if now >= self._gather_at:
            try:
                self._gather()
            except Exception:  # figures are no reason to leave a turn half done: those of before stay, with their time
                log.exception("metrics.failed")
            self._gather_at = now + max(GATHER_SECONDS, GATHER_SHARE * (self._monotonic() - now))

    def _answer(self, accept: str) -> tuple[bytes, str]:
        """Return the figures, encoded; called by the endpoint's thread, which reads one picture and nothing else."""
        return encode(self._figures, software=self._software, fleet=self._settings.fleet, turned_at=self._turned_at, accept=accept)

    def _gather(self) -> None:
        listened = self._listening.seconds
        nodes, findings = nodes_by_status(self._nodes.values(), listened=listened, silent_seconds=self._settings.silent_seconds)
        rollouts, left_out = rollout_figures(self._models())
        wants = self._counted.wants
        self._figures = Figures(
            gathered_at=self._wall(),
            connected=self._connected,
            connection_changed_at=self._changed_at,
            listening=self._listening.runs,
            nodes=nodes,
            findings=findings,
            rollouts=rollouts,
            rollouts_left_out=left_out,
            messages=dict(self._messages),
            waiting={lane: self._counted.inbox.count(lane) for lane in LANES},
            dropped={lane: self._counted.floods.dropped[lane] for lane in LANES},
            refused=dict(self._counted.notes.refused),
            alerts=dict(self._counted.notes.alerts),
            tests=dict(self._counted.tests),
            wants=wants.taken if wants is not None else 0,
            blocks=wants.sent if wants is not None else 0,
            block_bytes=wants.sent_bytes if wants is not None else 0,
            blocks_waiting=wants.waiting if wants is not None else 0,
            expires=self._expiries(),
            memory_bytes=_resident_bytes(),
            database_bytes=self._database_bytes(),
            disk_free_bytes=shutil.disk_usage(self._directory).free,
            cpu_seconds=time.process_time(),
        )

    def _expiries(self) -> dict[str, float]:
        """Return when each top-level role expires, and the first of the models' own; a repository that is damaged says so elsewhere."""
        if self._monotonic() >= self._expiry_at:
            self._expiry_at = self._monotonic() + EXPIRY_SECONDS
            with suppress(Refused):
                own, found = {"root", "targets", "snapshot", "timestamp", "rollouts"}, dict[str, float]()
                for one in self._repository.expiries(datetime.fromtimestamp(self._wall(), UTC)):
                    found.setdefault(one.role if one.role in own else "model", one.expires.timestamp())  # The first expires first.
                self._expires = found
        return self._expires

    def _database_bytes(self) -> int | None:
        if self._settings.database_url:
            return None
        with suppress(OSError):
            return sum(path.stat().st_size for path in self._directory.glob("hub.sqlite*"))
        return None


def _resident_bytes() -> int:
    """Return what the hub holds in memory now (proc_pid_statm(5)); 0 where it is not known."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{os.getpid()}/statm").read_bytes().split()[1]) * PAGE_BYTES
    return 0
