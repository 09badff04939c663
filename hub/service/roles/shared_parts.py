"""Hold what all roles of one process share, and say what the loop asks of each role."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fleetcast.mqtt_connection import Connected
from hub.database.store import Store
from hub.publish.block_store import BlockStore
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import HubEvent, HubLink
from hub.service.rollouts.listening import ListeningClock
from hub.service.rollouts.release_lookup import Releases
from hub.service.rollouts.rollout_traces import RolloutTraces
from hub.settings import HubSettings
from hub.signing.tuf_repository import Repository
from schemas.analytics_messages import Alert, Drift, MergedWindow

Work = Callable[[Callable[[], object]], None]  # Gives one part its turn: what it refuses keeps no other from its own.


@dataclass(frozen=True, slots=True)
class Common:
    """Hold it."""

    directory: Path
    settings: HubSettings
    store: Store
    notes: Notes
    link: HubLink
    repository: Repository
    blocks: BlockStore
    releases: Releases
    traces: RolloutTraces
    listening: ListeningClock
    rng: Random
    wall: Callable[[], float]
    monotonic: Callable[[], float]
    publish: Callable[..., None]  # An insight, if the broker is there.
    wake: Callable[[], object]  # Ends the loop's sleep: other threads have something for it.


Insight = MergedWindow | Drift | Alert


class Role:
    """Do nothing of what the loop asks for: each role does some of it."""

    kinds: tuple[str, ...] = ()  # Kinds of topics that this role reads.
    shared: tuple[str, ...] = ()  # Those of which each message may go to any one of several processes.
    guards = False  # Whether it watches the hub's own topics.

    def begin(self) -> None:
        """Start what runs beside the loop."""

    def leave(self) -> None:
        """Keep what only memory has, and end what runs beside the loop."""

    def connected(self, event: Connected) -> None:
        """Take in that the broker has accepted us."""

    def take(self, events: list[HubEvent], handle: "Handle") -> None:
        """Take in what this role reads of these messages, by the functions of `handle`."""

    def tick(self, work: Work, *, online: bool) -> None:
        """Do what time asks for."""

    def tick_last(self, work: Work) -> None:
        """Do what may wait until all others have had their turn."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Hold the loop's ways to take messages in: handled first, then acknowledged."""

    many: Callable[..., None]  # Some events and a function that takes all of them.
    one: Callable[..., None]  # A message and a function.
