"""Remember what the slots have yet to do, where an error stopped it: the move is durable, and no event comes again for it."""

from collections.abc import Callable, Collection, Mapping, Sequence

from node.core.activation import lifecycle
from node.core.activation.lifecycle import Command, ModelSlot
from node.core.trust.clock import NEVER, MonotonicClock, WallSeconds

AGAIN_SECONDS = 5.0  # Between two tries.


class OwedCommands:
    """Carry commands out, each until it is done or overtaken. Called by the loop's thread alone."""

    def __init__(self, carry_out: Callable[[ModelSlot, Command, WallSeconds], None], monotonic: MonotonicClock) -> None:
        self._carry_out, self._monotonic = carry_out, monotonic
        self._owed: list[tuple[str, Command]] = []
        self._tried_at = NEVER

    def carry_out(self, slot: ModelSlot, commands: Sequence[Command], now: WallSeconds) -> None:
        """Carry out what a move asks for, in this order; where one meets an error, the rest is owed with it."""
        self._owed += [(slot.model, one) for one in commands]
        for command in commands:
            self._carry_out(slot, command, now)
            self.done(slot.model, command)

    def done(self, model: str, command: Command) -> None:
        """Take in that a command was carried out."""
        self._owed = [one for one in self._owed if one != (model, command)]

    def again(self, slots: Mapping[str, ModelSlot], restoring: Collection[bytes], now: WallSeconds) -> None:
        """Carry out what is owed and still to be done."""
        if not self._owed or self._monotonic() - self._tried_at < AGAIN_SECONDS:
            return
        self._tried_at = self._monotonic()
        for model, command in list(self._owed):
            slot = slots.get(model)
            if slot is not None and _is_due(slot, command, restoring):
                self._carry_out(slot, command, now)
            self.done(model, command)


def _is_due(slot: ModelSlot, command: Command, restoring: Collection[bytes]) -> bool:
    match command:
        case lifecycle.Fetch(target):
            found = slot.target == target and slot.state in lifecycle.FETCHING
        case lifecycle.CancelFetch():
            found = slot.state not in lifecycle.FETCHING
        case lifecycle.Prepare(target):
            found = slot.target == target and slot.state in {"staged", "testing"}
        case lifecycle.Compare(target):
            found = slot.target == target and slot.state == "shadow"
        case lifecycle.Retire(target):
            found = target not in (slot.target, slot.serving)
        case lifecycle.Restore(target):
            found = slot.serving == target and target.digest in restoring
        case lifecycle.Switch(target) | lifecycle.Report(_, target):
            found = slot.serving == target
        case lifecycle.Tidy():
            found = True
    return found
