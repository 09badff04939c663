"""Decide what becomes of a slot whose worker ended by itself, and of a release that is brought back. Facts in, a step out."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from node.core.activation import lifecycle
from node.core.activation.lifecycle import ModelSlot, Step, Target
from schemas.errors import Code

CRASHES_MAX: Final = 5  # A worker's deaths in a row, each soon after its start: more are a loop.
RESTORE_TRIES, RESTORE_SECONDS = 4, 10.0  # A release has proved itself here before, and a device that just booted is slow.
DEVICES_FAULT: Final = frozenset({Code.MODEL_TOO_SLOW, Code.MODEL_TOO_LARGE, Code.RUNTIME_ABSENT, Code.WORKER_CRASHED, Code.WORKER_HUNG})


@dataclass(frozen=True, slots=True)
class RetryRestore:
    """Restore the release again after a pause: the device may be to blame."""

    tries: int  # so far
    pause_seconds: float


@dataclass(frozen=True, slots=True)
class Restored:
    """Go on after the release is served again: what is compared with it, and which workers of the slot are not needed."""

    compare: Target | None
    retire: frozenset[bytes]


def worker_ended(slot: ModelSlot, digest: bytes, *, reason: str, deaths: int, now: int) -> Step:
    """Decide after a worker ended by itself. The server has started another already, so a proven release stays until it loops.

    A release that is compared fails; one on probation, or one that dies again and again beside a last good one, goes back.
    """
    if slot.state == "shadow" and slot.target is not None and slot.target.digest == digest:
        return lifecycle.failed(slot, Code.WORKER_CRASHED, f"the worker ended while it was compared: {reason}", now=now)
    if slot.serving is None or slot.serving.digest != digest:
        return Step(slot, [])
    if not slot.proven:
        return lifecycle.misbehaved(slot, Code.WORKER_CRASHED, f"the worker ended while on probation: {reason}", now=now)
    if deaths >= CRASHES_MAX and slot.last_good is not None:
        return lifecycle.misbehaved(slot, Code.WORKER_CRASHED, f"the worker ended {deaths} times in a row: {reason}", now=now)
    return Step(slot, [])


def is_overtaken(slot: ModelSlot, restored: Target) -> bool:
    """Return whether something else is served by the time that this release is back."""
    return slot.serving is None or slot.serving.digest != restored.digest


def restored(slot: ModelSlot, loaded: Set[bytes]) -> Restored:
    """Decide after what is served was loaded and switched to. `loaded` are the slot's releases that have a worker."""
    in_worker = slot.target if slot.state in lifecycle.IN_WORKER else None
    needed = {one.digest for one in (slot.serving, slot.last_good, in_worker) if one is not None}
    return Restored(slot.target if slot.state == "shadow" else None, frozenset(loaded - needed))


def not_restored(slot: ModelSlot, code: Code, reason: str, *, tries: int, now: int) -> RetryRestore | Step:
    """Decide after what is served could not be loaded; `tries` counts the earlier failures since the start."""
    tries += 1
    if slot.proven and code in DEVICES_FAULT and tries < RESTORE_TRIES:
        return RetryRestore(tries, RESTORE_SECONDS * tries)
    return lifecycle.misbehaved(slot, code, reason, now=now)
