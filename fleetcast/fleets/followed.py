"""Follow a rollout from a program: an iterator of how far it has come, which ends when the rollout does.

The hub moves the rollout, and goes on when the program ends: whatever happens here, nothing is taken back.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from fleetcast.fleets.errors import NotInTime, RolloutEnded
from fleetcast.fleets.results import Done, RolloutStatus
from schemas.errors import Unreachable

if TYPE_CHECKING:
    from fleetcast.fleets.fleet import Fleet

T = TypeVar("T")
SETTLING_LOOKS: Final = 10
PATIENCE_SECONDS: Final = 300.0  # As long as a hub may be away while a program follows a rollout.
ENDED: Final = {
    "halted": "read the reason; then `fleet.resume(...)` or `fleet.back(...)`",
    "rolled_back": "read the reason, and roll out a release without that fault",
}


class FollowedRollout:
    """Hold a rollout that was started or is followed: a context manager, and an iterator of `RolloutStatus`.

    Iterating yields each change, the present state first, and ends when the rollout is done. Where it halts, goes back or is superseded,
    iterating ends with `RolloutEnded`, which says why. Leaving the block, or Ctrl-C, leaves the rollout as it is: the hub goes on.
    """

    def __init__(
        self, fleet: "Fleet", model: str, deployment: str, version: str, *, done: Done | None = None, timeout_seconds: float | None = None
    ) -> None:
        self._fleet, self._until = fleet, None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._timeout_seconds = timeout_seconds
        self.model, self.deployment, self.version, self.done = model, deployment, version, done

    @property
    def release(self) -> str:
        """Return the name of the release that is rolled out."""
        return f"{self.model}@{self.version}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what was found against the rollout when it was started, a sentence each."""
        return self.done.warnings if self.done is not None else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is to be known of the rollout besides: which nodes change their deployment, and which stay with another."""
        return self.done.notes if self.done is not None else ()

    @property
    def status(self) -> RolloutStatus | None:
        """Return how far the rollout has come; None while the hub has not begun it."""
        found = self._fleet.find_rollout(self.model, self.deployment)
        return found if found is not None and found.version == self.version else None

    def __repr__(self) -> str:
        return f"<rollout of {self.release} in deployment {self.deployment} of {self._fleet.place}>"

    def _repr_html_(self) -> str:
        found = self.status
        return found._repr_html_() if found is not None else "<p>The hub has not begun this rollout.</p>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the rollout as it is."""
        if isinstance(error, KeyboardInterrupt):
            self._say_goes_on(error)

    def __iter__(self) -> Iterator[RolloutStatus]:
        """Yield how far the rollout has come, at each change, until it is done.

        Raises:
            RolloutEnded: it was halted, went back, or was superseded.
            NotInTime: the time that was given is over.
        """
        with self._interruptible():
            yield from self._changes()

    def wait(self) -> RolloutStatus:
        """Return how the rollout ended, once it is done.

        Raises:
            RolloutEnded: it was halted, went back, or was superseded.
            NotInTime: the time that was given is over.
        """
        return list(self)[-1]  # The last change is that it is done.

    def _changes(self) -> Iterator[RolloutStatus]:
        last = before = None
        while True:
            self._ask_after_start()
            has_begun = self.done is None or self.done.state == "done"
            found = self._found()
            if has_begun and found is not None and found.version == self.version:
                found = self._settled(found, last)
                last = found
                seen = (found.state, found.stage, found.serving, found.failed, found.nodes, found.reason)
                is_looked_at = bool(found.reason) or found.state != "running"  # The hub has counted its nodes once.
                if seen != before and is_looked_at and found.state not in ENDED:
                    before = seen
                    yield found
                if found.state == "done":
                    return
                if found.state in ENDED:
                    reason = f"the rollout of {self.release} is {found.state}: {found.reason}"
                    raise RolloutEnded(f"rollout.{found.state}", reason, ENDED[found.state], found)
            elif has_begun:
                self._replaced(found, last)
            self._check_time(last)
            time.sleep(self._fleet.look_seconds)

    def _ask_after_start(self) -> None:
        """Look whether the hub has begun what it was asked to start."""
        if self.done is not None and self.done.state == "open":
            answer = self._patiently(lambda: self._fleet.operation(self.done.operation if self.done is not None else 0))
            self.done = replace(answer, warnings=self.done.warnings, notes=self.done.notes)

    def _found(self) -> RolloutStatus | None:
        return self._patiently(lambda: self._fleet.find_rollout(self.model, self.deployment))

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Return an answer; a hub that restarts, or a link that breaks for a while, does not end a rollout that is followed.

        Raises:
            Unreachable: there was no answer for long.
            NotInTime: the time that was given is over.
        """
        began = time.monotonic()
        while True:
            try:
                return ask()
            except Unreachable:
                if time.monotonic() - began >= PATIENCE_SECONDS:
                    raise
                self._check_time(None)
                time.sleep(self._fleet.look_seconds)

    def _settled(self, found: RolloutStatus, last: RolloutStatus | None) -> RolloutStatus:
        """Return the status with the figures and the reason of its end: a hub signs the end first, and keeps its reason next."""
        for _ in range(SETTLING_LOOKS):
            if last is None or found.state == "running" or found.reason != last.reason:
                break
            time.sleep(self._fleet.look_seconds)
            found = self._found() or found
        return found

    def _replaced(self, found: RolloutStatus | None, last: RolloutStatus | None) -> None:
        if found is None:
            reason = f"deployment {self.deployment} of {self.model} was removed"
            raise RolloutEnded("rollout.removed", reason, "look at fleet.rollouts()", last)
        reason = f"the rollout of {self.release} was superseded by {found.version}"
        raise RolloutEnded("rollout.superseded", reason, f"follow the other one: fleet.rollout({self.model!r})", last)

    def _check_time(self, last: RolloutStatus | None) -> None:
        if self._until is not None and time.monotonic() >= self._until:
            again = f"fleet.rollout({self.model!r}) follows it again"
            if last is None and (self.done is None or self.done.state != "open"):
                raise NotInTime(
                    f"after {self._timeout_seconds:g} s the hub does not say how far the rollout of {self.release} is",
                    f"it goes on; {again}",
                )
            if last is None:
                reason = f"after {self._timeout_seconds:g} s no hub has begun the rollout of {self.release}"
                raise NotInTime(reason, f"it waits for one; once it has begun, {again}")
            reason = (
                f"after {self._timeout_seconds:g} s the rollout of {self.release} is still {last.state} at {last.percent} %: {last.reason}"
            )
            raise NotInTime(reason, f"it goes on; {again}")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt as error:
            self._say_goes_on(error)
            raise

    def _say_goes_on(self, error: KeyboardInterrupt) -> None:
        sentence = (
            f"the rollout of {self.release} goes on: the hub moves it. fleet.rollout({self.model!r}) follows it again, "
            f"fleet.halt({self.model!r}) halts it"
        )
        if sentence not in getattr(error, "__notes__", ()):
            error.add_note(sentence)
            print(f"fleetcast: {sentence}", file=sys.stderr)  # noqa: T201  # a notebook shows no note of an interrupt
