"""Joins the rows of requests that wait for one worker into one question. Knows no HTTP and no release.

A request is sent at once while the worker has nothing to do; what comes while it computes is joined and follows. So one client never waits
for another to come, and many share the cost of a call. Only for releases whose golden rows proved that rows do not see each other.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from node.core.tensors import DTYPES, LENGTH, Raw
from node.workers import Runner, WorkerLost
from schemas.errors import Refused
from schemas.limits import MIB
from schemas.parameters import Value

ROWS_MAX: Final = 64  # of one joined question: beyond it the model's own buffers grow and nothing is gained
BYTES_MAX: Final = 8 * MIB

Answer = tuple[Raw, ...]


@dataclass(frozen=True, slots=True)
class _Waiting:
    inputs: tuple[Raw, ...]
    rows: int
    answer: asyncio.Future[Answer]

    @property
    def bytes(self) -> int:
        return sum(len(raw.data) for raw in self.inputs)

    def kind(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What has to be equal for rows to be joined."""
        return tuple((raw.name, raw.shape[1:]) for raw in self.inputs)


class Batcher:
    """One worker's queue. `joined` counts the questions that held more than one request."""

    def __init__(self, worker: Runner) -> None:
        self._worker = worker
        self._queue: list[_Waiting] = []
        self._flying = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.joined = 0

    async def infer(self, inputs: tuple[Raw, ...], parameters: Mapping[str, Value]) -> Answer:
        """The outputs for one request's rows.

        Raises:
            Refused, WorkerLost: as the worker's own.
        """
        rows = inputs[0].shape[0] if inputs and inputs[0].shape else 0
        if rows < 1 or any(raw.shape[:1] != (rows,) for raw in inputs):
            return await self._worker.infer(inputs, parameters)
        if self._flying:
            waiting = _Waiting(inputs, rows, asyncio.get_running_loop().create_future())
            self._queue.append(waiting)
            return await waiting.answer
        self._flying += 1
        try:
            return await self._worker.infer(inputs, parameters)
        finally:
            self._landed(parameters)

    def _landed(self, parameters: Mapping[str, Value]) -> None:
        self._flying -= 1
        self._queue = [one for one in self._queue if not one.answer.done()]  # whoever asked was cancelled
        if self._queue and not self._flying:
            self._flying += 1
            task = asyncio.get_running_loop().create_task(self._ask(self._take(), parameters))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Waiting]:
        """The oldest that waits, and what may be joined to it."""
        first, rows, size = self._queue[0], 0, 0
        taken, left = [], []
        for one in self._queue:
            fits = one.kind() == first.kind() and rows + one.rows <= ROWS_MAX and size + one.bytes <= BYTES_MAX
            if one is first or fits:
                taken.append(one)
                rows, size = rows + one.rows, size + one.bytes
            else:
                left.append(one)
        self._queue = left
        return taken

    async def _ask(self, batch: list[_Waiting], parameters: Mapping[str, Value]) -> None:
        try:
            for one, answer in zip(batch, await self._answers(batch, parameters), strict=True):
                if one.answer.done():
                    continue
                if isinstance(answer, BaseException):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)
        finally:
            for one in batch:
                one.answer.cancel()  # no effect on what was answered
            self._landed(parameters)

    async def _answers(self, batch: list[_Waiting], parameters: Mapping[str, Value]) -> Sequence[Answer | BaseException]:
        if len(batch) > 1:
            try:
                outputs = await self._worker.infer(join([one.inputs for one in batch]), parameters)
                self.joined += 1
                return split(outputs, [one.rows for one in batch])
            except WorkerLost as lost:
                return [lost] * len(batch)  # any of them may be the cause: each is tried again alone
            except (Refused, ValueError):
                pass  # one of them is wrong, or the answer has no rows: the others must not suffer for it
        return await asyncio.gather(*(self._worker.infer(one.inputs, parameters) for one in batch), return_exceptions=True)


def join(requests: Sequence[Sequence[Raw]]) -> Answer:
    """One question of all rows, in order."""
    joined = []
    for parts in zip(*requests, strict=True):
        rows = sum(part.shape[0] for part in parts)
        joined.append(Raw(parts[0].name, parts[0].datatype, (rows, *parts[0].shape[1:]), b"".join(part.data for part in parts)))
    return tuple(joined)


def split(outputs: Sequence[Raw], rows: Sequence[int]) -> list[Answer]:
    """Each request's part of the answer.

    Raises:
        ValueError: an output has another number of rows.
    """
    parts: list[list[Raw]] = [[] for _ in rows]
    for raw in outputs:
        if raw.shape[:1] != (sum(rows),):
            raise ValueError(f"{raw.name}: {sum(rows)} rows were asked, the answer has the shape {list(raw.shape)}")
        ends = _row_ends(raw)
        at = 0
        for part, count in zip(parts, rows, strict=True):
            data = memoryview(raw.data)[ends[at] : ends[at + count]]
            part.append(Raw(raw.name, raw.datatype, (count, *raw.shape[1:]), data))
            at += count
    return [tuple(part) for part in parts]


def _row_ends(raw: Raw) -> list[int]:
    """Where rows begin, and where the last ends."""
    rows, elements = raw.shape[0], 1
    for axis in raw.shape[1:]:
        elements *= axis
    if raw.datatype != "BYTES":
        step = elements * DTYPES[raw.datatype].itemsize
        return [row * step for row in range(rows + 1)]
    ends, at = [0], 0
    for _ in range(rows):
        for _ in range(elements):
            at += LENGTH.size + LENGTH.unpack_from(raw.data, at)[0]
        ends.append(at)
    return ends
