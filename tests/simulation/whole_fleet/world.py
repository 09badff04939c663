"""Virtual time: one queue of events for a whole fleet, and the clocks of its machines. Knows no hub, node or broker."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

EPOCH = 1_780_000_000.0  # a day in 2026, later than the build time by which nodes judge a clock


class PowerCutError(KeyboardInterrupt):
    """The machine is off in the middle of what it does. Of a kind that no handler of the product takes for an error of its own."""


@dataclass(slots=True)
class World:
    """`now` is in seconds since the beginning of the run; events at one moment happen in the order in which they were asked for."""

    seed: int
    now: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    order: int = 0
    handled: int = 0

    def random(self, name: str) -> Random:
        """Return a stream of its own for each purpose, so that leaving out one operation changes as little as can be elsewhere."""
        return Random(f"{self.seed} {name}")  # a text is hashed by SHA-512, the same in every process

    def at(self, when: float, do: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.events, (max(when, self.now), self.order, do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.now + seconds, do)

    def run(self, seconds: float) -> None:
        """Handle all that happens in this time."""
        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, do = heapq.heappop(self.events)
            self.handled += 1
            do()
        self.now = until


@dataclass(slots=True)
class Clocks:
    """A machine's clocks. The wall may be set wrong; the other only rises, and begins anew with every start of the machine.

    A process that waits is at the end of its wait when it looks at the clock: its time runs ahead of the world's until its next turn.
    """

    world: World
    wrong_by: float = 0.0  # what somebody set the wall clock to, against the world's
    ahead_until: float = 0.0
    booted_at: float = 0.0
    boot_offset: float = 0.0

    def boot(self, offset: float) -> None:
        self.booted_at, self.boot_offset, self.ahead_until = self.world.now, offset, self.world.now

    def local(self) -> float:
        return max(self.world.now, self.ahead_until)

    def wall(self) -> float:
        return EPOCH + self.local() + self.wrong_by

    def monotonic(self) -> float:
        return self.local() - self.booted_at + self.boot_offset

    def sleep(self, seconds: float) -> None:
        self.ahead_until = self.local() + max(0.0, seconds)
