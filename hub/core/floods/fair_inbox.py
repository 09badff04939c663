"""Decides which messages wait for the hub, and which are let go where there are too many: each sender has a fair share. No topic or thread.

Messages stand in lanes, and in each lane by sender; a lane is read one message a sender in turn. Three rules bound what waits:

- A lane may keep only the newest few messages of a sender, where a newer one makes the older ones pointless.
- Past a bound on all that waits, the oldest messages of the loudest senders go, down to a level that is the same for all of them.
- A firm message goes only when no other is left. Firm are messages of QoS 1: the receive window bounds them, and their sender was promised
  that they arrive.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
ROOM_SHARE = 8  # one part in this number is made free at once, so that the search for the loudest is rare


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """Hold one message, and what is known of it without reading it."""

    lane: str
    sender: str
    item: T
    size_bytes: int
    firm: bool = False


@dataclass(slots=True)
class _Sender(Generic[T]):
    messages: "deque[Waiting[T]]" = field(default_factory=deque)
    size_bytes: int = 0


Key = tuple[str, bool]  # a sender's firm messages and its others are counted apart


class Lanes(Generic[T]):
    """Hold all messages that wait. `newest` says how many messages of one sender a lane keeps; a lane that is not named keeps all."""

    def __init__(self, names: Iterable[str], *, newest: Mapping[str, int], messages_max: int, bytes_max: int) -> None:
        self._lanes: dict[str, OrderedDict[Key, _Sender[T]]] = {name: OrderedDict() for name in names}
        self._newest, self._messages_max, self._bytes_max = newest, messages_max, bytes_max
        self._counts = dict.fromkeys(self._lanes, 0)
        self.size_bytes = 0

    def __len__(self) -> int:
        return sum(self._counts.values())

    def count(self, lane: str) -> int:
        """Return how many messages wait in a lane."""
        return self._counts[lane]

    def put(self, message: Waiting[T]) -> list[Waiting[T]]:
        """Add a message, and return those that are let go for it."""
        lane, key = self._lanes[message.lane], (message.sender, message.firm)
        sender = lane.get(key)
        if sender is None:
            sender = lane[key] = _Sender()
        sender.messages.append(message)
        sender.size_bytes += message.size_bytes
        self.size_bytes += message.size_bytes
        self._counts[message.lane] += 1
        gone: list[Waiting[T]] = []
        if len(sender.messages) > self._newest.get(message.lane, len(sender.messages)):
            gone.append(self._pop(message.lane, key))
        if len(self) > self._messages_max:
            self._level(gone, lambda one: len(one.messages), lambda: len(self), self._messages_max)
        if self.size_bytes > self._bytes_max:
            self._level(gone, lambda one: one.size_bytes, lambda: self.size_bytes, self._bytes_max)
        return gone

    def take(self, lane: str, at_most: int) -> list[T]:
        """Return the next messages of a lane, one of each sender in turn, the oldest first."""
        found: list[T] = []
        senders = self._lanes[lane]
        while senders and len(found) < at_most:
            key = next(iter(senders))
            found.append(self._pop(lane, key).item)
            if key in senders:
                senders.move_to_end(key)
        return found

    def forget_firm(self) -> None:
        """Let all firm messages go: the sender that promised them sends them again."""
        for name, senders in self._lanes.items():
            for key in [key for key in senders if key[1]]:
                sender = senders.pop(key)
                self.size_bytes -= sender.size_bytes
                self._counts[name] -= len(sender.messages)

    def _pop(self, lane: str, key: Key) -> Waiting[T]:
        senders = self._lanes[lane]
        sender = senders[key]
        message = sender.messages.popleft()
        sender.size_bytes -= message.size_bytes
        self.size_bytes -= message.size_bytes
        self._counts[lane] -= 1
        if not sender.messages:
            del senders[key]
        return message

    def _level(self, gone: list[Waiting[T]], amount: Callable[[_Sender[T]], int], total: Callable[[], int], most: int) -> None:
        """Take the oldest of the loudest until there is room: of those that are not firm, then of all."""
        wanted = most - most // ROOM_SHARE
        for firm in (False, True):
            those = [(amount(one), name, key) for name, senders in self._lanes.items() for key, one in senders.items() if key[1] == firm]
            those.sort(reverse=True, key=lambda one: one[0])
            level = level_of([one[0] for one in those], wanted - (total() - sum(one[0] for one in those)))
            for least in (1, 0):  # each sender keeps a message of its own, unless that is still too much
                for _, name, key in those:
                    while total() > wanted and (sender := self._lanes[name].get(key)) is not None:
                        if len(sender.messages) <= least or (least and amount(sender) <= level):
                            break
                        gone.append(self._pop(name, key))
            if total() <= most:
                return


def level_of(amounts: Sequence[int], room: int) -> int:
    """Return the level to which the largest amounts are cut so that all of them fit: what a max-min fair share gives to each."""
    left = max(0, room)
    for number, amount in enumerate(sorted(amounts)):
        share = left // (len(amounts) - number)
        if amount > share:
            return share
        left -= amount
    return max(amounts, default=0)
