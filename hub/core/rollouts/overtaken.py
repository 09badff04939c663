"""Decides whether a node's own report has overtaken the last receipt that the hub has of it, as after a restore of an older database.

Only receipts prove what a node serves. But one that the node contradicts since proves only what it served then.
"""

from schemas.state import Slot


def reported_instead(slot: Slot | None, *, digest: bytes | None, since: int, at: int) -> str:
    """Return the version that a node reports in place of the one that its last receipt proves; "" where it does not.

    `since` is when it began to serve that, and `at` when it reported this, both by its own clock.
    """
    if slot is None or digest is None or slot.serving in {None, digest} or at <= since:
        return ""
    return slot.serving_version or "another release"
