"""Reports that messages were let go because too many came: one alert an episode and sender, and at its end how many they were."""

from collections import Counter
from collections.abc import Callable

import structlog

from hub.service.alerts.event_log import Notes
from hub.service.broker.inbox import Lost
from schemas.analytics_messages import Alert
from schemas.errors import Code

log = structlog.get_logger()

QUIET_SECONDS = 60.0  # without a message let go: then the episode is over
SENDERS_MAX = 8  # named in one episode; a flood of invented names is not to be one of alerts
COUNTED_MAX, OTHERS = 1024, "others"  # senders that are counted each by itself
REPLACED_FROM = 1000  # states or wants of one sender in an episode: a day's backlog of an honest node is 288
NODES_LANES = ("state", "want", "receipt")


class Floods:
    """Report floods. Holds the episode that runs, if one does."""

    def __init__(self, notes: Notes, *, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._notes, self._wall, self._monotonic = notes, wall, monotonic
        self._counts: Counter[tuple[str, str]] = Counter()
        self._named: set[tuple[str, str]] = set()
        self._last = 0.0
        self.dropped: Counter[str] = Counter()  # By lane, since the start.

    def report(self, lost: Lost | None) -> None:
        """Count what was let go; None when nothing was."""
        now = self._monotonic()
        if lost is None:
            if self._counts and now - self._last >= QUIET_SECONDS:
                self._end()
            return
        self._last = now
        for (lane, name), count in lost.counts.items():
            self.dropped[lane] += count
            known = (lane, name) in self._counts or len(self._counts) < COUNTED_MAX
            self._counts[lane, name if known else OTHERS] += count
        for sender in lost.counts:
            if sender not in self._named and len(self._named) < SENDERS_MAX and self._counts[sender] >= _report_from(sender[0]):
                self._named.add(sender)
                self._alert(sender)

    def _alert(self, sender: tuple[str, str]) -> None:
        lane, name = sender
        what = f"{lane} messages of {name or 'topics that are not this fleet'}"
        text = (
            f"the hub lets messages go because too many come: {self._counts[sender]} {what} so far; newer ones took their place, and other"
            " senders keep theirs; look at what sends them, or revoke it"
        )
        node = name if lane in NODES_LANES else None
        self._notes.alert(Alert(kind="refused", at=int(self._wall()), node=node, code=str(Code.INBOX_FLOODED), text=text))

    def _end(self) -> None:
        total, by_sender = self._counts.total(), {f"{lane} {name}": count for (lane, name), count in self._counts.most_common(SENDERS_MAX)}
        if self._named:
            text = f"messages are let go no more: {total} were, most of {next(iter(by_sender))}"
            self._notes.event("inbox.flood_ended", text, messages=total, senders=by_sender)
        else:
            log.info("inbox.replaced", messages=total, senders=by_sender)  # older reports by newer ones, after a while without a hub
        self._counts.clear()
        self._named.clear()


def _report_from(lane: str) -> int:
    return REPLACED_FROM if lane in {"state", "own", "want"} else 1
