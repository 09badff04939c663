"""The role `blocks`: answer wants. Of several processes each may answer, and what two of them answer is published a second time."""

from collections.abc import Callable
from functools import partial

from fleetcast.block_server import BlockServer
from fleetcast.mqtt_connection import Connected, Published
from hub.service.broker.mqtt import HubEvent, WantArrived
from hub.service.delivery.blocks import Wants
from hub.service.roles.shared_parts import Common, Handle, Role, Work

SHARED: tuple[str, ...] = ("want",)  # One of several servers answers a want, where the broker divides them.


class ServingBlocks(Role):
    """Serve blocks."""

    kinds = ("want",)

    def __init__(self, common: Common, *, is_alone: bool, seen: Callable[[str], object]) -> None:
        self._seen = seen  # Checks that what comes in a node's name counts.
        settings = common.settings
        server = BlockServer(
            cache_bytes_max=settings.cache_bytes_max,
            expiry_seconds=settings.cache_expiry_seconds,
            linger_seconds=settings.linger_seconds,
            again_seconds=settings.again_seconds,
        )
        local = common.blocks.local
        self.wants = Wants(server, store=common.store, blocks=local, releases=common.releases, link=common.link, clock=common.wall)
        self.wants.keep_to(settings, common.blocks, common.notes, monotonic=common.monotonic, arrived=common.wake)
        self.wants.traces = common.traces
        self.shared = () if is_alone else SHARED

    def begin(self) -> None:
        """Start what fetches from the object store, where there is one."""
        self.wants.start()

    def leave(self) -> None:
        """End it."""
        self.wants.stop()

    def connected(self, event: Connected) -> None:
        """Begin with a new connection."""
        self.wants.connected(
            session_present=event.session_present, retain_available=event.retain_available, packet_bytes_max=event.packet_bytes_max
        )

    def take(self, events: list[HubEvent], handle: Handle) -> None:
        """Queue what is wanted."""
        for event in events:
            match event:
                case Published(mid):
                    self.wants.published(mid)
                case WantArrived():
                    handle.one(event.message, partial(self._wanted, event))

    def tick(self, work: Work, *, online: bool) -> None:
        """Alert of an object store that is away."""
        work(self.wants.report)

    def _wanted(self, event: WantArrived) -> None:
        self._seen(event.node)
        self.wants.wanted(event)
