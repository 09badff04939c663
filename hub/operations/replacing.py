"""Let devices in: by a token where devices enrol; elsewhere new hardware gets a node's name by its key, or is the first that comes."""

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hub.database.device_lives import DeviceLives
from hub.database.enrolments import Enrolments, Place
from hub.operations.opened_fleet import OpenedFleet
from hub.signing import certificate_authority as x
from hub.signing import certificate_issuer
from hub.signing.tuf_repository import Repository
from schemas.enrolment import SECRET_BYTES, Token, pin_of
from schemas.errors import Code, Refused
from schemas.names import RESERVED_NODES, check_name, sha256

COUNT_MAX: Final = 10_000  # Tokens that are made at once.
EXPIRES_DAYS_MAX: Final = 90  # A token lies around on paper, in mails and in shell histories.


def replace(fleet: OpenedFleet, node: str, *, fingerprint: bytes | None, hours: int) -> dict[str, Any]:
    """Let new hardware in by a node's name, and return how: by a token, or by what key until when.

    Raises:
        Refused: the name is reserved, or has never been used; a key is named where the token says which device is let in.
    """
    if check_name("node", node) in RESERVED_NODES:
        raise Refused(Code.NAME_INVALID, f"node id {node!r} is reserved for {node} itself")
    store = fleet.store
    row = Enrolments(store.database).node(node)
    if fleet.needs_enrolment or row is not None:
        if fingerprint is not None:
            raise Refused(Code.SETTINGS_INVALID, "devices of this fleet enrol: the token says which device is let in; omit --fingerprint")
        cohort, labels = (row.place.cohort, dict(row.place.labels)) if row is not None else ("", {})
        return make_tokens(fleet, [node], cohort=cohort, labels=labels, seconds=hours * 3600)[0]
    lives = DeviceLives(store.database)
    if store.node(node) is None and lives.life(node) is None:
        reason = f"node {node!r} has never reported, so that there is nothing to replace: just start the device"
        raise Refused(Code.NODE_UNKNOWN, reason)
    until = int(time.time()) + hours * 3600
    lives.expect(node, fingerprint=fingerprint, expires_at=until)
    lets_in = "the device with this key alone" if fingerprint is not None else "the first device that comes in this name, whichever that is"
    shown = fingerprint.hex() if fingerprint is not None else None
    return {"node": node, "lets_in": lets_in, "fingerprint": shown, "until": _moment(until), "old_key": "out"}


def numbered(node: str, count: int | None) -> list[str]:
    """Return the names that tokens are made for: the node's own, or NODE-1 to NODE-COUNT, with as many digits each."""
    if count is None:
        return [node]
    return [f"{node}-{number:0{len(str(count))}d}" for number in range(1, count + 1)]


def check_free(fleet: OpenedFleet, names: Sequence[str]) -> None:
    """Check that no device is enrolled under one of these names.

    Raises:
        Refused: NODE_ENROLLED: one is.
    """
    taken = Enrolments(fleet.store.database).enrolled([check_name("node", name) for name in names])
    if taken:
        raise Refused(Code.NODE_ENROLLED, f"node {taken[0]} is enrolled already; use --replace to make a token for a device in its place")


def make_tokens(fleet: OpenedFleet, names: Sequence[str], *, cohort: str, labels: Mapping[str, str], seconds: int) -> list[dict[str, Any]]:
    """Make a token for each name, which lets one device in by it, once.

    Raises:
        Refused: a name is reserved, or the fleet has no authority.
    """
    settings, pin = fleet.settings, token_pin(fleet.directory)
    for name in names:
        if check_name("node", name) in RESERVED_NODES:
            raise Refused(Code.NAME_INVALID, f"node id {name!r} is reserved for {name} itself")
    if cohort:
        check_name("cohort", cohort)
    made = [(name, Token(pin, secrets.token_bytes(SECRET_BYTES))) for name in names]
    ends = int(time.time()) + seconds
    enrolments = Enrolments(fleet.store.database)
    enrolments.add_tokens([(one.digest, Place(name, cohort, dict(labels))) for name, one in made], expires_at=ends)
    hub = settings.enrolment_url or "https://HUB:8443"
    return [
        {"node": name, "token": str(one), "expires": _moment(ends), "command": f"fleetcast-node enroll --hub {hub} --token {one}"}
        for name, one in made
    ]


def unanswered(fleet: OpenedFleet) -> list[str]:
    """Return a warning where no hub would answer a device that comes with a token."""
    if fleet.settings.enrolment_listen:
        return []
    return ["fleet.toml has no enrolment_listen, so no hub will answer the device: set it and start the hub again"]


def token_pin(directory: Path) -> bytes:
    """Return the pin that a token carries: the authority and the trust root that a device accepts.

    Raises:
        Refused: the fleet has no authority.
    """
    certificate_issuer.check_authority(directory)
    return pin_of(x.public_der(x.load_certificate(directory / x.ROOT_NAME)), sha256(Repository(directory / "trust").root()))


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
