"""Say what a fleet has to be able to do, wherever it is: in a folder of this machine, or behind the API of a hub."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from fleetcast.fleets.keys import Key
from fleetcast.fleets.results import Done, PublishedRelease, Row

Action = Literal["halt", "resume", "back", "approve", "retry"]
Progress = Callable[[str, int, int], None]  # Called with what is done, how many of it are done, and of how many.


class Backend(Protocol):
    """Fulfil what a program asks of a fleet. Rows are as the API has them.

    Every method raises `Refused` where the fleet refuses, and `Unreachable` where a database or hub does not answer.
    """

    look_seconds: float  # Pause between two looks at what changes.

    @property
    def place(self) -> str:
        """Return where the fleet is, for a person."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...

    def summary(self) -> Row:
        """Return the fleet's name, its nodes by class, and how many streams drift."""
        ...

    def models(self) -> Sequence[Row]:
        """Return a row for each model."""
        ...

    def releases(self, model: str) -> Sequence[Row]:
        """Return a row for each release of a model."""
        ...

    def nodes(self, where: str | None) -> Sequence[Row]:
        """Return a row for each node that a selector matches, by name."""
        ...

    def node(self, name: str) -> Row:
        """Return one node."""
        ...

    def drift(self, model: str | None, cohort: str | None) -> Sequence[Row]:
        """Return a row for each stream that is tested for drift."""
        ...

    def rollouts(self, model: str | None) -> Sequence[Row]:
        """Return a row for each deployment."""
        ...

    def plan(self, model: str, wish: Mapping[str, Any], rates_bit_s: Mapping[str, float]) -> Row:
        """Return what a rollout would cost."""
        ...

    def publish(
        self, model: object, fields: Mapping[str, Any], reference: object, *, signer: Key | None, breaking: bool, progress: Progress | None
    ) -> PublishedRelease:
        """Build, sign and store a release; `fields` are those of a release file."""
        ...

    def start(self, wish: Mapping[str, Any], wait_seconds: float) -> tuple[Done, str]:
        """Start a rollout, and return what became of it with the name of its deployment."""
        ...

    def act(self, action: Action, model: str, deployment: str | None, wait_seconds: float) -> Done:
        """Have the hub do something with a rollout."""
        ...

    def operation(self, number: int) -> Done:
        """Return what became of something that the hub was asked to do; a refusal is raised."""
        ...

    def events(self, after: int | None) -> Iterator[Row]:
        """Yield events with an id above this one as they happen; None begins with the next one."""
        ...

    def past_events(self, after: int) -> Iterator[Row]:
        """Yield the events that there are, with an id above this one, the oldest first."""
        ...
