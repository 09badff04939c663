"""Hold what somebody asks of a blueprint, whether on the fleet's folder or over its API: which text, and what comes of applying it."""

import hashlib
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import structlog

from hub.core.blueprint.reading import Written
from hub.database.blueprint_rows import Blueprints
from hub.operations import blueprint_apply
from hub.operations.blueprint import Options, Plan, of_revision
from hub.operations.blueprint_apply import Done
from hub.operations.opened_fleet import OpenedFleet
from schemas.errors import Code, FleetcastError, Refused

log = structlog.get_logger()

KEPT_MAX: Final = 64  # Applies of which it is known how they ended.


def in_force(fleet: OpenedFleet) -> Written:
    """Return the blueprint in force.

    Raises:
        Refused: none was applied.
    """
    newest = Blueprints(fleet.store.database).newest()
    if newest is None:
        reason = "no blueprint was applied to this fleet yet: give a file; `fleetcast blueprint > fleet.yaml` writes one of what is now"
        raise Refused(Code.BLUEPRINT_INVALID, reason)
    return of_revision(fleet, newest.revision)


def digest_of(found: Plan) -> str:
    """Return what names these changes, so that an apply can say which ones somebody has seen."""
    return hashlib.sha256(json.dumps([one.change.sentence for one in found.planned]).encode()).hexdigest()


def check_seen(found: Plan, digest: str | None) -> None:
    """Check that the changes are those that were seen.

    Raises:
        Refused: REQUEST_STALE.
    """
    if digest is not None and digest != digest_of(found):
        raise Refused(Code.REQUEST_STALE, "the fleet has changed since you looked, and the changes are other ones now: look again")


@dataclass
class Application:
    """Hold an apply that was begun: what it has done so far, and how it ended."""

    id: str
    state: Literal["applying", "applied", "refused"] = "applying"
    done: list[Done] = field(default_factory=list)
    revision: int | None = None
    changes: int = 0
    code: str = ""
    text: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def row(self) -> dict[str, Any]:
        """Return it for a script."""
        done = [{"number": one.number, "of": one.of, "text": one.text} for one in list(self.done)]
        named: Mapping[str, Any] = {name: getattr(self, name) for name in ("id", "state", "revision", "changes", "code", "text")}
        return {**named, "done": done}


class Applications:
    """Apply blueprints, each in a thread of its own that dies with the process, as if it had been killed: to apply again goes on."""

    def __init__(self) -> None:
        self._known = OrderedDict[str, Application]()
        self._lock = threading.Lock()

    def begin(self, fleet: OpenedFleet, approved: Plan, options: Options) -> Application:
        """Begin to apply; another apply that runs refuses this one."""
        found = Application(secrets.token_hex(8))
        with self._lock:
            self._known[found.id] = found
            while len(self._known) > KEPT_MAX:
                self._known.popitem(last=False)
        threading.Thread(target=_run, args=(found, fleet, approved, options), name="api-apply", daemon=True).start()
        return found

    def get(self, number: str) -> Application:
        """Return an apply.

        Raises:
            Refused: REQUEST_UNKNOWN: this process has not begun it, or has forgotten it.
        """
        with self._lock:
            found = self._known.get(number)
        if found is None:
            reason = f"nothing is known of an apply {number[:32]!r}: if the hub was started anew, look at the difference and apply again"
            raise Refused(Code.REQUEST_UNKNOWN, reason)
        return found


def _run(found: Application, fleet: OpenedFleet, approved: Plan, options: Options) -> None:
    try:
        applied = blueprint_apply.apply(fleet, approved, options, report=found.done.append)
        found.revision, found.changes, found.state = applied.revision, applied.changes, "applied"
    except FleetcastError as error:
        found.code = str(error.code) if isinstance(error, Refused) else "hub.failed"
        found.text, found.state = error.reason if isinstance(error, Refused) else str(error), "refused"
    except Exception:
        log.exception("blueprint.apply_crashed")
        found.code, found.text, found.state = "hub.failed", "that is a bug in fleetcast; details are in the hub's log", "refused"
    finally:
        found.ended.set()
