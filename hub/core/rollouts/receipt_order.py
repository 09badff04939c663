"""Decides which of a node's receipts is newer: by the numbers that the node gives them, never by when they arrive.

A broker that lost a session brings receipts again, in whatever order. A node that lost its store counts from 1 again, with the same key:
its receipts are then of another epoch. So is what a copy of the device signs with numbers that the first device has used.
"""

from dataclasses import dataclass

_EPOCH = 2**54  # Above every sequence number that a receipt can carry.


@dataclass(frozen=True, slots=True)
class Newest:
    """Hold a node's newest receipt: its epoch, its number, and when the node signed it by its own clock."""

    epoch: int
    sequence: int
    at: int


def epoch_of(newest: Newest | None, *, sequence: int, at: int) -> int:
    """Return the epoch of a receipt that is new to the hub.

    A number that is not above the newest is of a receipt that comes late, unless it was signed later: then its node counts anew.
    """
    if newest is None:
        return 0
    return newest.epoch + (sequence <= newest.sequence and at > newest.at)


def position(epoch: int, sequence: int) -> int:
    """Return the place of a receipt among all of its node: a higher one is newer."""
    return epoch * _EPOCH + sequence


def parted(place: int) -> tuple[int, int]:
    """Return the epoch and the number of a receipt's place."""
    return divmod(place, _EPOCH)


def newer(newest: Newest | None, one: Newest) -> Newest:
    """Return the newer of two."""
    if newest is None or position(one.epoch, one.sequence) > position(newest.epoch, newest.sequence):
        return one
    return newest
