"""Name what the history keeps of a change: what was before, and what is after; None where there was nothing, or is nothing any more."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from schemas.names import sha256

Side = Mapping[str, Any] | None
LATEST = 253_402_300_799  # The end of the year 9999, behind which no moment can be written.
KEY_CHARACTERS = 16  # Digits of a digest that tell two keys apart.


def iso(at: int) -> str:
    """Return a moment in UTC, for people and scripts."""
    return datetime.fromtimestamp(min(at, LATEST), UTC).isoformat()


def key_side(key: bytes | None) -> dict[str, Any] | None:
    """Return a device's key, as far as the history names it."""
    return {"key": sha256(key).hex()[:KEY_CHARACTERS]} if key else None
