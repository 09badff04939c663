"""Says, signed and retained, that this hub runs, and notices another that has the same fleet's keys: by name, and before both sign."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog
from securesystemslib.signer import Signer

from hub.core.roles import rivals as core
from hub.core.roles.rivals import BEAT_SECONDS, Rivals, Standing
from hub.service.alerts.event_log import Notes
from hub.service.broker.mqtt import HubLink, PresenceArrived
from hub.settings import HubSettings
from hub.signing.envelopes import opened, seal
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused, Unreachable
from schemas.hub_presence import HOST_CHARACTERS_MAX, HubPresence
from schemas.names import sha256

log = structlog.get_logger()

MACHINE = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))


class RivalHubs:
    """Watch for other hubs. With a broker of its own there are none."""

    def __init__(
        self,
        directory: Path,
        settings: HubSettings,
        *,
        link: HubLink,
        repository: Repository,
        notes: Notes,
        signer: Signer,
        random_bytes: Callable[[int], bytes],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._link, self._repository, self._notes, self._signer = link, repository, notes, signer
        self._wall, self._monotonic = wall, monotonic
        mine = HubPresence(
            run=random_bytes(16),
            place=place_of(directory, settings),
            host=socket.gethostname()[:HOST_CHARACTERS_MAX] or "unknown",
            pid=os.getpid(),
            since=int(wall()),
            beat=0,
        )
        self._state = Rivals(mine, clear_at=None if settings.broker_url else float("-inf"))
        self._is_alone = not settings.broker_url
        self._beat_at = float("-inf")

    @property
    def standing(self) -> Standing:
        """Return whether this hub may sign: it does not while it is unsure, and never again once it is down."""
        return self._state.standing(self._monotonic())

    @property
    def why(self) -> str:
        """Return in words why it does not."""
        other = self._state.down_for
        if other is None:
            return "it is not known yet whether another hub of this fleet runs"
        return f"another hub of this fleet runs on {other.host} (pid {other.pid}), and this one signs nothing: stop one of them"

    def subscribed(self) -> None:
        """Take in that the broker has answered every subscription."""
        self._state = core.subscribed(self._state, now=self._monotonic())

    def heard(self, event: PresenceArrived) -> None:
        """Take in what a hub says of itself.

        Raises:
            Refused: the key that signs rollouts has not signed it.
        """
        presence = codec.decode(HubPresence, opened("presence", event.envelope, self._repository.key_of("rollouts", event.envelope.key)))
        self._state, other = core.heard(self._state, presence, now=self._monotonic())
        if other is not None:
            self._report(other)

    def connected(self) -> None:
        """Say anew that this hub runs."""
        self._beat_at = float("-inf")

    def tick(self, *, online: bool) -> None:
        """Say that this hub runs, once in a while."""
        now = self._monotonic()
        if self._is_alone or not online or self.standing != "leads" or now - self._beat_at < BEAT_SECONDS:
            return
        self._beat_at = now
        self._say(stands_down=False)

    def stand_down(self) -> None:
        """Say that this hub has noticed another, for that one to report it by name."""
        self._say(stands_down=True)

    def leave(self, *, online: bool) -> None:
        """Say that this hub runs no more."""
        if not self._is_alone and online and self.standing == "leads":
            self._link.retain_presence(b"")

    def _say(self, *, stands_down: bool) -> None:
        mine = replace_beat(self._state.mine, stands_down=stands_down)
        self._state = replace(self._state, mine=mine)
        try:
            self._link.retain_presence(codec.encode(seal("presence", codec.encode(mine), self._signer)))
        except (Unreachable, Refused) as error:
            log.warning("presence.failed", reason=str(error))

    def _report(self, other: HubPresence) -> None:
        mine, is_down = self._state.mine, self._state.down_for is not None
        what = "this hub, which began later, signs nothing more" if is_down else "that one began later, and is to sign nothing more"
        text = (
            f"two hubs run with this fleet's keys: on {mine.host} (pid {mine.pid}) and on {other.host} (pid {other.pid}), perhaps in a copy"
            f" of the fleet's folder; {what}; stop the one on the host that the fleet has left"
        )
        log.error("hub.duplicate", reason=text)
        if is_down:  # It stays so. The elder goes on, and does not learn when the other has ended.
            self._notes.troubles.begin(str(Code.HUB_DUPLICATE), text)
        self._notes.alert(Alert(kind="refused", at=int(self._wall()), code=str(Code.HUB_DUPLICATE), text=text))


def replace_beat(mine: HubPresence, *, stands_down: bool) -> HubPresence:
    """Return the next of a hub's reports of itself."""
    return mine.model_copy(update={"beat": mine.beat + 1, "stands_down": stands_down})


def place_of(directory: Path, settings: HubSettings) -> bytes:
    """Return a digest of where a hub keeps what it knows: two with one place are kept apart by its lock, and are no rivals."""
    if settings.is_on_server:
        return sha256(b"database\0" + settings.database_url.encode())
    folder = directory.resolve()
    machine = b""
    for path in MACHINE:
        try:
            machine = path.read_bytes().strip()
        except OSError:
            continue
        if machine:
            break
    status = folder.stat()
    return sha256(b"\0".join([machine, str(folder).encode(), f"{status.st_dev}:{status.st_ino}".encode()]))
