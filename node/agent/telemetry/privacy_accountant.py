"""Keep the privacy ledger on this device: charged durably before anything leaves, and checked at each start against a witness in another
place.

The witness is a small file, written after each charge and before what was charged for can leave. A ledger that is not as the witness saw it
is believed no more: nothing of what happened before a day has passed leaves the device, and the node says why.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from fleetcast import durable
from node.core.telemetry import privacy_accountant as core
from node.core.telemetry.privacy import DAY_SECONDS
from node.core.telemetry.privacy_accountant import Witness
from node.core.trust.clock import WallClock
from node.storage.store import NodeStore
from schemas.errors import Code, Refused

log = structlog.get_logger()

QUIET_UNTIL = "ledger_quiet_until"
QUIET_CODE = "ledger_rolled_back"  # 1: rolled back; 0: tampered with
LOST = "ledger_lost"  # 1: the store was lost, and with it what was spent; nobody has drawn the consequences yet
ENTRIES_MIN = "ledger_entries_min"  # as many entries there were at least, before
WITNESS_BYTES_MAX = 256


class PrivacyAccountant:
    """Account for what was spent, by day of the events that it was spent on."""

    def __init__(self, store: NodeStore, witness: Path, *, rho_day_max: float, clock: WallClock) -> None:
        self._store, self._witness, self._rho_day_max, self._clock = store, witness, rho_day_max, clock
        with suppress(OSError):  # Once, at the start: a data folder that is away later must not be made again in its own place.
            durable.make_folder(witness.parent, parents=True)
        self._sealed: Witness | None = None
        self._check()

    @property
    def entries(self) -> int:
        """Return how many there have been; it only grows."""
        return self._store.ledger_end().number

    @property
    def is_sealed(self) -> bool:
        """Return whether the witness has seen the newest entry; until then nothing that was charged may leave."""
        return self._sealed == self._store.ledger_end()

    def refusal(self, start: int, days: Sequence[int], rho: float) -> Code | None:
        """Return why nothing of an interval may leave; None when it may."""
        quiet = self.quiet(start)
        if quiet is not None:
            return quiet
        return None if self._store.spent(days) + rho <= self._rho_day_max else Code.LEDGER_SPENT

    @property
    def rho_day_max(self) -> float:
        """Return what a day may cost."""
        return self._rho_day_max

    def affords(self, days: Sequence[int], rho: float) -> bool:
        """Return whether these days have that much left."""
        return self._store.spent(days) + rho <= self._rho_day_max

    def quiet(self, start: int) -> Code | None:
        """Return why nothing leaves of what happened at `start`, whatever was spent."""
        until = self._store.fact(QUIET_UNTIL)
        if min(start, int(self._clock())) >= until:
            return None
        return Code.LEDGER_ROLLED_BACK if self._store.fact(QUIET_CODE) else Code.LEDGER_TAMPERED

    def charge(self, days: Sequence[int], rho: float, what: str) -> None:
        """Spend, in the caller's transaction, which also holds what it is spent on. `seal` has to follow it."""
        before = self._store.ledger_end()
        entry = core.following(before, at=int(self._clock()), days=days, rho=rho, what=what)
        self._store.add_entry(entry, before.head)

    def seal(self) -> None:
        """Have the witness see the newest entry.

        Raises:
            Refused: DISK_FULL: it has not seen it.
        """
        end = self._store.ledger_end()
        try:
            self._write(end)
        except OSError as error:
            raise Refused(Code.DISK_FULL, f"the ledger's witness {self._witness} cannot be written: {error.strerror}") from error
        self._sealed = end

    def _write(self, end: Witness) -> None:
        durable.write(self._witness, f"{end.number} {end.head.hex()}\n".encode())

    def _check(self) -> None:
        before, entries = self._store.ledger()
        seen: Witness | None = None
        try:
            seen = self._seen()
            if self._store.fact(LOST):
                raise Refused(Code.LEDGER_ROLLED_BACK, "the privacy ledger was lost with the node's database")
            core.check(entries, before=before, spent=self._store.spent_days(), witness=seen)
        except Refused as refusal:
            self._distrust(refusal, max(self._store.ledger_end().number, seen.number if seen else 0))
        self._sealed = seen
        if not self.is_sealed:
            try:
                self.seal()
            except Refused as refusal:  # what is served is served all the same, and nothing leaves
                log.error("ledger.not_sealed", code=str(refusal.code), reason=refusal.reason)

    def _distrust(self, refusal: Refused, number: int) -> None:
        now = int(self._clock())
        log.error("ledger.distrusted", code=str(refusal.code), reason=refusal.reason, quiet_until=now + DAY_SECONDS)
        with self._store.transaction():
            if self._store.fact(QUIET_UNTIL) < now:
                self._store.set_fact(QUIET_CODE, int(refusal.code is Code.LEDGER_ROLLED_BACK))
            self._store.raise_fact(QUIET_UNTIL, now + DAY_SECONDS)
            self._store.restart_ledger()
            before = Witness(max(number, self._store.fact(ENTRIES_MIN)), core.START)
            self._store.set_fact(LOST, 0)
            self._store.add_entry(core.following(before, at=now, days=(), rho=0.0, what=str(refusal.code)), before.head)

    def _seen(self) -> Witness | None:
        try:
            with self._witness.open() as file:
                words = file.read(WITNESS_BYTES_MAX).split()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused(Code.LEDGER_ROLLED_BACK, f"the ledger's witness {self._witness} cannot be read: {error.strerror}") from None
        try:
            return Witness(int(words[0]), bytes.fromhex(words[1]))
        except (IndexError, ValueError):
            raise Refused(Code.LEDGER_TAMPERED, f"the ledger's witness {self._witness} is no number and hash") from None
