"""What a move asks for is done, although an error stopped it: a full disk, when no event comes again for it."""

from collections.abc import Callable

import pytest

from node.agent.activation.owed_commands import AGAIN_SECONDS, OwedCommands
from node.core.activation.lifecycle import CancelFetch, Command, Fetch, ModelSlot, Prepare, Restore, Retire, Target, Tidy
from node.core.trust.clock import MonotonicSeconds, WallSeconds
from schemas.names import sha256

NOW = WallSeconds(0)
OLD, NEW = (Target(version=version, digest=sha256(version.encode()), rollout=b"r" * 16) for version in ("1.0.0", "1.1.0"))
FETCHING = ModelSlot(model="m", state="fetching", target=NEW, serving=OLD)


class Disk:
    """Carries commands out while it has room."""

    def __init__(self) -> None:
        self.done: list[Command] = []
        self.is_full, self.seconds = True, 0.0

    def carry_out(self, slot: ModelSlot, command: Command, now: WallSeconds) -> None:
        if self.is_full:
            raise OSError("no room")
        self.done.append(command)

    def monotonic(self) -> MonotonicSeconds:
        return MonotonicSeconds(self.seconds)

    def owed(self) -> OwedCommands:
        return OwedCommands(self.carry_out, self.monotonic)


def stopped(disk: Disk, *commands: Command) -> Callable[[ModelSlot | None], list[Command]]:
    """Commands that a full disk stopped; what is done of them when there is room, and the slot is as given."""
    owed = disk.owed()
    with pytest.raises(OSError, match="no room"):
        owed.carry_out(FETCHING, commands, NOW)

    def again(slot: ModelSlot | None) -> list[Command]:
        disk.is_full = False
        disk.seconds += AGAIN_SECONDS
        owed.again({} if slot is None else {"m": slot}, (), NOW)
        owed.again({} if slot is None else {"m": slot}, (), NOW)  # Once is enough.
        return disk.done

    return again


def test_what_a_full_disk_stopped_is_done_in_its_order_once_there_is_room() -> None:
    commands = (Fetch(NEW), Tidy())
    assert stopped(Disk(), *commands)(FETCHING) == list(commands)


def test_it_is_tried_seldom_while_the_disk_is_full() -> None:
    disk = Disk()
    owed = disk.owed()
    tries = 0
    with pytest.raises(OSError, match="no room"):
        owed.carry_out(FETCHING, [Fetch(NEW)], NOW)
    for _ in range(10):
        disk.seconds += AGAIN_SECONDS / 5
        try:
            owed.again({"m": FETCHING}, (), NOW)
        except OSError:
            tries += 1
    assert 1 <= tries <= 3


@pytest.mark.parametrize(
    ("command", "slot"),
    [
        (Fetch(NEW), FETCHING.model_copy(update={"state": "active", "target": None})),  # the rollout was halted
        (Fetch(NEW), FETCHING.model_copy(update={"target": OLD})),  # another release is wanted
        (CancelFetch(OLD), FETCHING),  # another transfer began
        (Prepare(NEW), FETCHING),
        (Retire(OLD), FETCHING),  # it serves again
        (Restore(OLD), FETCHING),  # it is back
        (Fetch(NEW), None),  # the model was removed
    ],
)
def test_what_was_overtaken_meanwhile_is_not_done(command: Command, slot: ModelSlot | None) -> None:
    assert stopped(Disk(), command)(slot) == []
