"""Take what the hub sets of this node: verified, durable, and only then in force. It stays in force when it expires.

An expiry bounds how old a statement may be that is newly accepted. A device that was away for months goes on as it is.
"""

from collections.abc import Callable, Mapping

import structlog
from securesystemslib.signer import Key

from fleetcast import durable
from node.agent.reports.standing_findings import StandingFindings
from node.core.settings.effective_settings import EffectiveSettings, SiteTerms, check_settings, effective_settings
from node.core.trust import clock as clocks
from node.settings import NodeSettings
from node.storage.store import TELEMETRY_OFF, NodeStore
from node.trust.envelopes import opened
from node.trust.tuf_client import Trust
from schemas import codec
from schemas.deployments import Envelope
from schemas.device_settings import DeviceSettings
from schemas.errors import Code, Refused
from schemas.limits import LABELS_MAX
from schemas.names import sha256

log = structlog.get_logger()

FILE = "settings"  # In the trust folder.
SERIAL = "settings_serial"  # Fact in the store.
KEY = "this device's key"  # A subject of findings.
AGAIN_SECONDS = 30.0  # Between two looks at settings that could not be taken yet.
# The clock may be wrong, or the trusted metadata may name another key soon: such settings are looked at again.
_NOT_FOR_GOOD = frozenset({Code.TRUST_EXPIRED, Code.TRUST_SIGNATURE})


class HubSettings:
    """Hold what is in force of what the site's file and the hub set. Called by the loop's thread alone."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        store: NodeStore,
        trust: Trust,
        wall: clocks.WallClock,
        refused: Callable[[Refused, str], None],
        findings: StandingFindings,
        public_key: Callable[[], bytes],
    ) -> None:
        self._public_key = public_key
        self._node, self._path = settings.id, settings.data / "trust" / FILE
        self._store, self._trust, self._wall = store, trust, wall
        self._refused, self._findings = refused, findings
        accepts = frozenset(settings.hub_may_set)
        self._site = SiteTerms(settings.labels, settings.cohort, settings.telemetry, settings.budgets, accepts)
        self.in_force: EffectiveSettings = effective_settings(self._site, None)
        self._followed = self.in_force  # What every part goes by.
        self._envelope: Envelope | None = None  # What is in force has come in it.
        self._pending: Envelope | None = None
        self._is_looking = False
        self._is_from_disk = False  # Whether what is pending was accepted before this process began.
        self._reported = ""
        self._looked_at = clocks.NEVER
        self.changed: Callable[[EffectiveSettings], None] = lambda found: None

    def begin(self, changed: Callable[[EffectiveSettings], None]) -> None:
        """Take up what was in force before a restart, verified again; `changed` hears of it, and from now on of every change."""
        self.changed = changed
        self._pending, self._is_from_disk = self._kept(), True
        self.look_again()
        if self._envelope is None:
            self._store.set_fact(TELEMETRY_OFF, 0)

    def take(self, envelope: Envelope) -> None:
        """Take settings from the hub. They are durable when this returns, or refused, or kept in mind until they can be judged."""
        self._pending, self._is_from_disk = envelope, False
        self.look_again()

    def tick(self, now: clocks.MonotonicSeconds) -> None:
        """Look again at what could not be taken."""
        if self._pending is not None and now - self._looked_at >= AGAIN_SECONDS:
            self._looked_at = now
            self.look_again()

    def look_again(self) -> None:
        """Judge what is pending: by the time and the trusted metadata of now."""
        if self._pending is None or self._is_looking:
            return  # What goes by the settings asks for a look, too.
        self._is_looking = True
        try:
            self._judge(self._pending)
        finally:
            self._is_looking = False

    def _judge(self, envelope: Envelope) -> None:
        if (keys := self._trust.rollout_keys()) is None:
            return  # Nothing is trusted yet.
        if envelope == self._envelope:
            self._settle()
            return
        try:
            found, effective = self._judged(envelope, keys)
        except Refused as refusal:
            self._refuse(refusal)
            return
        if not self._is_from_disk:
            try:
                durable.write(self._path, codec.encode(envelope))
            except FileNotFoundError as error:  # The data folder's disk is not mounted: it is taken when that is back.
                log.error("settings.not_kept", reason=str(error))
                return
            self._store.set_fact(SERIAL, found.serial)
        else:
            self._store.raise_fact(SERIAL, found.serial)  # The store may have been lost since.
        self.in_force = effective
        if effective != self._followed:  # Else the hub has renewed it.
            self._store.set_fact(TELEMETRY_OFF, int(self._site.telemetry and not effective.telemetry))
            log.info("settings.accepted", serial=found.serial, ignored=list(effective.ignored))
            self.changed(effective)
            self._followed = effective
        # A full disk may have stopped any of this: only now there is nothing left to be done again.
        self._envelope = envelope
        self._settle()
        self._find_key(found.key_refused)

    def _judged(self, envelope: Envelope, keys: Mapping[str, Key]) -> tuple[DeviceSettings, EffectiveSettings]:
        found = codec.decode(DeviceSettings, opened(envelope, "settings", keys))
        if self._is_from_disk:
            check_settings(found, node=self._node, serial_min=0, now=-1)  # It was new when it came, and does not lapse.
        else:
            wall, floor = int(self._wall()), self._store.fact("clock_floor")
            check_settings(found, node=self._node, serial_min=self._serial_min(keys), now=clocks.trusted_now(wall, floor))
        effective = effective_settings(self._site, found)
        if len(effective.labels) > LABELS_MAX:
            reason = f"with these settings the node would have {len(effective.labels)} labels, at most {LABELS_MAX} are allowed"
            raise Refused(Code.SETTINGS_INVALID, reason)
        return found, effective

    def _serial_min(self, keys: Mapping[str, Key]) -> int:
        """Return the lowest serial that is taken; those that a key signed which is trusted no more bind nobody."""
        if self._envelope is not None and self._envelope.key.hex() not in keys:
            return 0
        return self._store.fact(SERIAL)

    def _find_key(self, refused: bytes | None) -> None:
        """Report that the hub does not believe this device, if that is so."""
        found = []
        if refused is not None and refused == sha256(self._public_key()):
            reason = f"the hub knows another key of {self._node}: put that back, or `fleetcast nodes replace {self._node}` at the hub"
            found = [Refused(Code.RECEIPT_KEY_CHANGED, reason)]
        self._findings.put("settings", KEY, found)

    def _settle(self) -> None:
        self._pending, self._reported = None, ""
        self._findings.put("settings", "", ())

    def _refuse(self, refusal: Refused) -> None:
        """Report a refusal once; what is in force stays."""
        if refusal.code not in _NOT_FOR_GOOD:
            self._pending = None
        if str(refusal) != self._reported:
            self._reported = str(refusal)
            self._refused(refusal, "")
        self._findings.put("settings", "", [refusal])

    def _kept(self) -> Envelope | None:
        try:
            with self._path.open("rb") as file:
                return codec.decode(Envelope, file.read(Envelope.bytes_max + 1))
        except FileNotFoundError:
            return None
        except (OSError, Refused) as error:  # The site's own file is in force until the hub's settings come again.
            log.error("settings.damaged", path=str(self._path), reason=str(error))
            return None
