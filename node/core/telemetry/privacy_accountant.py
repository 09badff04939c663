"""Chain what was spent: each entry's head is the hash of the one before and of the entry. Knows no disk and no clock.

On a plain disk nothing can keep its owner from putting an old copy back. Detectable is that entries were changed, taken out or put in
between; and, against a witness (how many entries there were, and the last head) that is kept in another place, that the end is missing.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from schemas.errors import Code, Refused, mismatch

START = bytes(32)  # the head before the first entry
TOLERANCE = 1e-9  # Error of sums of floats.


class Entry(NamedTuple):
    """Hold an amount of zCDP, charged to each of these days, for what."""

    number: int  # from 1
    at: int
    days: tuple[int, ...]
    rho: float
    what: str
    head: bytes


class Witness(NamedTuple):
    """Describe what a second place says of the chain."""

    number: int
    head: bytes


def following(previous: Witness, *, at: int, days: Sequence[int], rho: float, what: str) -> Entry:
    """Return the next entry of a chain that ends at `previous`."""
    entry = Entry(previous.number + 1, at, tuple(days), rho, what, b"")
    return entry._replace(head=_head(previous.head, entry))


def check(entries: Sequence[Entry], *, before: Witness, spent: dict[int, float], witness: Witness | None) -> None:
    """Check whether the ledger is whole. `before` is the entry that the oldest kept one follows, `spent` what the sums by day are said to
    be.

    Raises:
        Refused: LEDGER_TAMPERED: an entry or a sum was changed; LEDGER_ROLLED_BACK: the witness saw more, or another chain, or is gone.
    """
    last = before
    sums: dict[int, float] = defaultdict(float)
    heads = {before.number: before.head}
    for entry in entries:
        if entry.number != last.number + 1 or entry.head != _head(last.head, entry):
            raise mismatch(Code.LEDGER_TAMPERED, "privacy ledger", expected=f"entry {last.number + 1} as it was", actual=entry.number)
        last = Witness(entry.number, entry.head)
        heads[entry.number] = entry.head
        for day in entry.days:
            sums[day] += entry.rho
    for day, rho in sums.items():
        if spent.get(day, 0.0) < rho - TOLERANCE:
            expected = f"at least {rho:.6f}"
            raise mismatch(Code.LEDGER_TAMPERED, f"rho spent on day {day}", expected=expected, actual=f"{spent.get(day, 0.0):.6f}")
    if witness is None:
        if last.number:
            raise Refused(Code.LEDGER_ROLLED_BACK, f"privacy ledger: its witness is gone, and {last.number} entries stand alone")
    elif witness.number > last.number:
        raise mismatch(Code.LEDGER_ROLLED_BACK, "privacy ledger", expected=f"{witness.number} entries or more", actual=last.number)
    elif heads.get(witness.number, witness.head) != witness.head:
        raise mismatch(
            Code.LEDGER_ROLLED_BACK, f"entry {witness.number}", expected=witness.head.hex()[:16], actual=heads[witness.number].hex()[:16]
        )


def _head(previous: bytes, entry: Entry) -> bytes:
    days = ",".join(map(str, entry.days))
    text = f"{entry.number}|{entry.at}|{days}|{entry.rho!r}|{entry.what}"
    return hashlib.sha256(previous + text.encode()).digest()
