"""Cut the power again and again, each time a while after something has begun, and check what is there when it is back."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.vm.disk import Lost
from tests.vm.guest import Event, GuestDied
from tests.vm.plant import Plant, moved_to, named

KINDS: Final = ("fetch", "switch", "probation", "telemetry")
BEGIN_SECONDS: Final = 240  # within which what is to be cut has to begin


@dataclass(frozen=True, slots=True)
class Kind:
    """Describe when to cut."""

    begun: Callable[[Event], bool]
    passed: Callable[[Event], bool]  # it is too late for this rollout
    delay_seconds_max: float
    pause_seconds: float = 1.0  # between two rows of traffic


OF: Final = {
    "fetch": Kind(named("fetch.planned", "fetch.resumed"), named("fetch.completed"), 15),
    "switch": Kind(named("fetch.completed"), moved_to("active"), 12),
    "probation": Kind(moved_to("probation"), moved_to("active"), 22),
    "telemetry": Kind(named("window.closed"), lambda _: False, 8, 0.0),
}


@dataclass(frozen=True, slots=True)
class Cut:
    """Hold what one cut met, and what came of it."""

    kind: str
    slot: str  # the state of the node's model
    waiting: int  # messages of the node that the hub did not have
    disk: Lost
    boot_seconds: float
    serving_seconds: float  # from the channel's first answer to the first answer of a model
    losses: tuple[str, ...]


def cut(plant: Plant, kind: str, rng: random.Random) -> Cut:
    """Wait for what is to be cut, cut it, boot, and check."""
    guest, how = plant.guest, OF[kind]
    stop, before = threading.Event(), len(plant.losses)
    sending = plant.traffic(stop, rng, how.pause_seconds)
    if kind == "telemetry":
        _wait(plant, how, since=len(guest.events))
    elif kind == "fetch" or not _goes_on(plant, how):
        since = len(guest.events)
        plant.roll_out()
        _wait(plant, how, since=since)
    deadline = time.monotonic() + rng.uniform(0, how.delay_seconds_max)
    while True:
        plant.look()  # up to the last moment: what one look has found must be there after the cut
        if time.monotonic() >= deadline:
            break
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
    slot, waiting = plant.record.slot, len(plant.record.waiting)
    stop.set()
    disk = guest.cut(rng)
    sending.join(60)
    boot_seconds = guest.boot()
    plant.booted()
    serving_seconds = plant.wait_serving()
    plant.look_at_both()
    if kind == KINDS[-1]:
        plant.settle()
    return Cut(kind, slot, waiting, disk, boot_seconds, serving_seconds, tuple(plant.losses[before:]))


def _wait(plant: Plant, how: Kind, *, since: int) -> None:
    if plant.guest.wait_for(how.begun, BEGIN_SECONDS, since=since) is None:
        plant.lose(f"in {BEGIN_SECONDS} s nothing has begun that could be cut")


def _goes_on(plant: Plant, how: Kind) -> bool:
    """Return whether this phase of the rollout that was cut in an earlier one has begun since the boot, once it has."""
    deadline = time.monotonic() + BEGIN_SECONDS
    while time.monotonic() < deadline:
        events = list(plant.guest.events)
        if plant.record.slot == "active" or any(how.passed(event) for event in events):
            return False
        if any(how.begun(event) for event in events):
            return True
        time.sleep(1)
        plant.look()
    return False


def campaign(plant: Plant, cuts: int, rng: random.Random, done: Callable[[int, Cut], None]) -> None:
    """Cut as often as asked, in turns of fetch, switch, probation and telemetry."""
    for number in range(cuts):
        kind = KINDS[number % len(KINDS)]
        try:
            done(number + 1, cut(plant, kind, rng))
        except (AssertionError, TimeoutError, GuestDied) as error:  # what cannot be checked has not survived
            plant.lose(f"cut {number + 1}, in {kind}: {type(error).__name__}: {error}")
            plant.guest.cut(rng)
            plant.guest.boot()
            plant.booted()
    plant.settle()
