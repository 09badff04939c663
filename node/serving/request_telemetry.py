"""Report requests to telemetry: which were answered, with what, and which failed through no fault of the client. Knows no HTTP.

Nothing that goes wrong here reaches a client. A release that is only compared with the one that serves is not reported.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

from node.core.inference.tensors import Array, Spec, rows_of
from node.serving.loaded_model import Answer, LoadedModel, Observation
from node.serving.traffic import Traffic
from node.serving.worker_pool import CLIENTS_FAULT, WorkerPool
from schemas.errors import FleetcastError, Refused

log = structlog.get_logger(__name__)

MEMORY_SECONDS: Final = 1.0  # between two looks at a worker's memory: a look costs as much as counting a request does
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
TEXT_CHARACTERS_MAX: Final = 64 * 1024  # A longer text is measured to here: beyond it all fall into the last bin of any length
ABORTED: Final = "abort"  # why an answer ended that nobody wanted any more; beside the runtime's own "stop" and "length"
INSTRUCTIONS: Final = ("system", "developer")  # roles of a program that asks, and not of the people who talk to it


class Observing:
    """Tell `on_rows` of every request."""

    def __init__(self, pool: WorkerPool, on_rows: Callable[[Observation], None]) -> None:
        self._pool, self._on_rows = pool, on_rows
        self.traffic = Traffic()
        self._memory: dict[int, tuple[float, int | None]] = {}  # by process: when it was looked at, and what it held

    def answered(self, answer: Answer, latency_ms: float) -> None:
        """Count a model's answer, whether or not the client could be given it."""
        rows = rows_of(answer.loaded.inputs, answer.request.inputs)
        self.traffic.of(answer.loaded.staged.model).answered(rows, latency_ms / 1e3)
        self._observe(lambda: answer.observation(latency_ms, self.memory_bytes(answer.loaded)))

    def failed(self, model: str, version: str | None, error: FleetcastError, latency_ms: float, turn: "Turn | None" = None) -> None:
        """Count a request without an answer; nothing is reported where the client is at fault, or no release is there to answer for it."""
        self.traffic.failed(model, error, self._pool.slots)
        if not (isinstance(error, Refused) and error.code in CLIENTS_FAULT):
            self._observe(lambda: self._failure(model, version, latency_ms, turn))

    def turned(self, turn: "Turn", latency_ms: float) -> None:
        """Follow a turn of a conversation; one that a release has not begun is not reported."""
        if turn.loaded is not None:
            traffic = self.traffic.of(turn.loaded.staged.model)
            if turn.stop_reason == ABORTED:
                traffic.outcomes["abandoned"] += 1
            else:
                traffic.answered(1, latency_ms / 1e3)
        self._observe(lambda: self._turn(turn, latency_ms))

    def memory_bytes(self, loaded: LoadedModel) -> int | None:
        """Return what the process of a release's worker holds; None where it is gone, or the system does not say. A second old at the
        most.
        """
        worker = loaded.worker
        if worker is None or not worker.alive:
            return None
        process_id, now = worker.process_id, time.monotonic()
        looked = self._memory.get(process_id)
        if looked is None or now - looked[0] >= MEMORY_SECONDS:
            if looked is None:  # processes come and go: those that nobody asks for are forgotten
                self._memory = {id: one for id, one in self._memory.items() if now - one[0] < MEMORY_SECONDS}
            looked = self._memory[process_id] = (now, resident_bytes(process_id))
        return looked[1]

    def _failure(self, model: str, version: str | None, latency_ms: float, turn: "Turn | None") -> Observation | None:
        try:
            loaded = (turn and turn.loaded) or self._pool.find(model, version)
        except FleetcastError:
            return None
        return Observation(
            model=model,
            digest=loaded.staged.digest,
            inputs=_text(loaded.inputs, turn.asked) if turn else {},
            outputs={},
            rows=1,
            event_time=None,
            latency_ms=latency_ms,
            failed=True,
            memory_bytes=self.memory_bytes(loaded),
        )

    def _turn(self, turn: "Turn", latency_ms: float) -> Observation | None:
        loaded = turn.loaded
        if loaded is None:
            return None
        return Observation(
            model=loaded.staged.model,
            digest=loaded.staged.digest,
            inputs=_text(loaded.inputs, turn.asked),
            outputs={} if turn.text is None else _text(loaded.outputs, turn.text),
            rows=1,
            event_time=None,
            latency_ms=latency_ms,
            memory_bytes=self.memory_bytes(loaded),
            stop_reason=turn.stop_reason,
            prompt_tokens=turn.prompt_tokens,
            answer_tokens=turn.answer_tokens,
        )

    def _observe(self, seen: Callable[[], Observation | None]) -> None:
        try:
            if (found := seen()) is not None:
                self._on_rows(found)
        except Exception:
            log.exception("telemetry.failed")


@dataclass(slots=True)
class Turn:
    """Hold one turn of a conversation as it is heard. `asked` is what it adds to the conversation; `text` what was answered, once that
    ended.
    """

    asked: str
    loaded: LoadedModel | None = None
    text: str | None = None
    stop_reason: str | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    _parts: list[str] = field(default_factory=list)
    _characters: int = 0

    def add(self, loaded: LoadedModel, chunk: Mapping[str, Any]) -> None:
        """Take a piece of the answer; an empty one says no more than that this release works on it."""
        self.loaded = loaded
        for choice in _choices(chunk):
            self._end(choice)
            self._append(choice.get("delta"))
        self._count(chunk.get("usage"))

    def end(self, loaded: LoadedModel, answer: Mapping[str, Any]) -> None:
        """Take the whole answer; after a stream perhaps no more than why it ended, and how long it is."""
        self.loaded = loaded
        for choice in _choices(answer):
            self._end(choice)
            if not self._parts:
                self._append(choice.get("message"))
        self.text = "".join(self._parts)
        self._count(answer.get("usage"))

    def abandon(self) -> None:
        """End it where nobody waits for the rest. The text until then is known only of a stream."""
        self.stop_reason = ABORTED
        if self._parts:
            self.text = "".join(self._parts)

    def _append(self, message: object) -> None:
        text = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(text, str) and self._characters < TEXT_CHARACTERS_MAX:
            self._parts.append(text[: TEXT_CHARACTERS_MAX - self._characters])
            self._characters += len(text)

    def _count(self, usage: object) -> None:
        if isinstance(usage, Mapping):
            self.prompt_tokens, self.answer_tokens = _whole(usage.get("prompt_tokens")), _whole(usage.get("completion_tokens"))

    def _end(self, choice: Mapping[str, Any]) -> None:
        reason = choice.get("finish_reason")
        self.stop_reason = reason if isinstance(reason, str) else self.stop_reason


def asked_in(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what a turn adds to a conversation: all that follows the last answer, without the instructions of the program that asks.

    Earlier turns were counted when they were made.
    """
    answers = [number for number, message in enumerate(messages) if message.get("role") == "assistant"]
    added = [message for message in messages[answers[-1] + 1 if answers else 0 :] if message.get("role") not in INSTRUCTIONS]
    return "\n".join(part for message in added for part in _texts(message.get("content")))[:TEXT_CHARACTERS_MAX]


def resident_bytes(process_id: int) -> int | None:
    """Return what a process holds in memory now (proc_pid_statm(5)); None where it is not known."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process_id}/statm").read_bytes().split()[1]) * PAGE_BYTES
    return None


def _texts(content: object) -> list[str]:
    """Return a message's text, or those of its parts."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]


def _text(specs: Sequence[Spec], text: str) -> dict[str, Array]:
    """Return the text under the name that a model which takes one, or gives one, has for it."""
    return {specs[0].name: np.array([text], object)} if len(specs) == 1 and specs[0].datatype == "BYTES" else {}


def _choices(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a runtime says of its answer, which may be somebody else's runtime."""
    choices = chunk.get("choices")
    return [one for one in choices if isinstance(one, Mapping)] if isinstance(choices, list) else []


def _whole(value: object) -> int | None:
    """Return a number of tokens; what no text can have is not believed, and could not be a float."""
    return value if type(value) is int and 0 <= value < 2**53 else None
