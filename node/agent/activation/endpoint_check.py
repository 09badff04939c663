"""Prove that a release is served: it counts as served here once a question to the endpoint was answered by it, and not before."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

import structlog

from node.agent.events import EndpointAnswered
from node.core.activation.lifecycle import ModelSlot, Target
from node.core.trust.clock import NEVER, MonotonicClock, MonotonicSeconds
from node.serving.server import Server
from schemas.errors import Code, Refused

log = structlog.get_logger()

AGAIN_SECONDS_MIN, AGAIN_SECONDS_MAX = 0.5, 60.0


@dataclass(slots=True)
class _Unproven:
    target: Target
    number: int = 0  # The question that waits for an answer.
    tries: int = 0
    asks_at: MonotonicSeconds = NEVER
    asking: bool = False


class Endpoint:
    """Ask the endpoint of each model that was switched, until it is answered by what was switched to. Never waits."""

    def __init__(self, server: Server, *, post: Callable[[EndpointAnswered], None], monotonic: MonotonicClock) -> None:
        self._server, self._post, self._monotonic = server, post, monotonic
        self._unproven: dict[str, _Unproven] = {}
        self._numbers = count(1)

    def prove(self, model: str, target: Target) -> None:
        """Ask whether the release that was switched to answers: `EndpointAnswered` follows, and again until it is proven."""
        known = self._unproven.get(model)
        if known is None or known.target != target:
            known = self._unproven[model] = _Unproven(target)
        known.asking = False
        self.tick()

    def prove_again(self, slots: Iterable[ModelSlot]) -> None:
        """Ask once more about what is served already: its receipt is signed when it answers."""
        for slot in slots:
            if slot.serving is not None and slot.model not in self._unproven:
                self.prove(slot.model, slot.serving)

    def forget(self, model: str) -> None:
        """Ask no more: it is proven, and that is written down, or the model was removed."""
        self._unproven.pop(model, None)

    def tick(self) -> None:
        """Ask again where no answer has proven it."""
        for model, one in self._unproven.items():
            if not one.asking and one.asks_at <= self._monotonic():
                self._ask(model, one)

    def heard(self, event: EndpointAnswered) -> bool | None:
        """Return whether this answer is the release's own; else it is asked again, ever more seldom. None: nobody waits for it any more.

        The caller calls `forget` once it has written down what is proven. Until then the same answer is heard again.
        """
        one = self._unproven.get(event.model)
        if one is None or one.number != event.number:  # another release was switched to since
            return None
        one.asking = False
        if event.answered_by == event.target.digest:
            one.asks_at = self._monotonic() + AGAIN_SECONDS_MAX
            return True
        one.tries += 1
        one.asks_at = self._monotonic() + min(AGAIN_SECONDS_MAX, AGAIN_SECONDS_MIN * 2 ** min(one.tries, 10))
        reason = str(event.error) if event.error is not None else f"{(event.answered_by or b'').hex()[:12]} answers"
        log.warning("endpoint.not_proven", model=event.model, version=event.target.version, tries=one.tries, reason=reason)
        return False

    def _ask(self, model: str, one: _Unproven) -> None:
        one.asking, number = True, next(self._numbers)
        one.number = number
        self._server.probe(model, lambda found, error: self._post(EndpointAnswered(model, one.target, number, found, error)))


def is_not_served(event: EndpointAnswered) -> bool:
    """Return whether clients are answered by another release, or refused because there is none."""
    if event.answered_by is not None:
        return event.answered_by != event.target.digest
    return isinstance(event.error, Refused) and event.error.code is Code.RELEASE_UNKNOWN
