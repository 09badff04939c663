"""Join the rows of requests that wait for one worker into one question. Knows no HTTP and no release.

A request is sent at once while the worker has nothing to do; what comes while it computes is joined and follows. So one client never waits
for another to come, and many share the cost of a call. Only for releases whose golden rows proved that rows do not see each other.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from node.core.inference.tensors import DTYPES, LENGTH, Raw
from node.workers.worker_handle import Runner, WorkerLost
from schemas.errors import Refused
from schemas.limits import MIB
from schemas.parameters import Value

ROWS_MAX: Final = 64  # Rows of one joined question: beyond it the model's own buffers grow and nothing is gained
BYTES_MAX: Final = 8 * MIB
SECONDS_MAX: Final = 0.25  # that a joined question may take, by the latency of one row: nobody who joins waits long for the others

Answer = tuple[Raw, ...]


@dataclass(frozen=True, slots=True)
class _Waiting:
    inputs: tuple[Raw, ...]
    rows: int
    parameters: Mapping[str, Value]
    answer: asyncio.Future[Answer]

    @property
    def bytes(self) -> int:
        return sum(len(raw.data) for raw in self.inputs)

    def kind(self) -> tuple[Mapping[str, Value], tuple[tuple[str, tuple[int, ...]], ...]]:
        """Return what has to be equal for rows to be joined."""
        return self.parameters, tuple((raw.name, raw.shape[1:]) for raw in self.inputs)


class Batcher:
    """Keep one worker's queue. `joined` counts the questions that held more than one request; `row_seconds` is what one row takes it."""

    def __init__(self, worker: Runner, row_seconds: float) -> None:
        self._worker = worker
        self._rows_max = max(1, min(ROWS_MAX, int(SECONDS_MAX / row_seconds))) if row_seconds > 0 else ROWS_MAX
        self._queue: list[_Waiting] = []
        self._flying = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.joined = 0

    async def infer(self, inputs: tuple[Raw, ...], parameters: Mapping[str, Value]) -> Answer:
        """Return the outputs for one request's rows.

        Raises:
            Refused, WorkerLost: as the worker's own.
        """
        rows = inputs[0].shape[0] if inputs and inputs[0].shape else 0
        if rows < 1 or any(raw.shape[:1] != (rows,) for raw in inputs):
            return await self._worker.infer(inputs, parameters)
        if self._flying:
            waiting = _Waiting(inputs, rows, parameters, asyncio.get_running_loop().create_future())
            self._queue.append(waiting)
            return await waiting.answer
        self._flying += 1
        try:
            return await self._worker.infer(inputs, parameters)
        finally:
            self._landed()

    @property
    def waiting(self) -> int:
        """Return requests that are not with the worker yet."""
        return len(self._queue)

    def _landed(self) -> None:
        self._flying -= 1
        self._queue = [one for one in self._queue if not one.answer.done()]  # its caller was cancelled
        if self._queue and not self._flying:
            self._flying += 1
            task = asyncio.get_running_loop().create_task(self._ask(self._take()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Waiting]:
        """Return the oldest that waits, and what may be joined to it."""
        first, rows, size = self._queue[0], 0, 0
        taken, left = [], []
        for one in self._queue:
            fits = one.kind() == first.kind() and rows + one.rows <= self._rows_max and size + one.bytes <= BYTES_MAX
            if one is first or fits:
                taken.append(one)
                rows, size = rows + one.rows, size + one.bytes
            else:
                left.append(one)
        self._queue = left
        return taken

    async def _ask(self, batch: list[_Waiting]) -> None:
        try:
            for one, answer in zip(batch, await self._answers(batch), strict=True):
                if one.answer.done():
                    continue
                if isinstance(answer, BaseException):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)
        finally:
            for one in batch:
                one.answer.cancel()  # no effect on what was answered
            self._landed()

    async def _answers(self, batch: list[_Waiting]) -> Sequence[Answer | BaseException]:
        if len(batch) > 1:
            try:
                outputs = await self._worker.infer(join([one.inputs for one in batch]), batch[0].parameters)
                self.joined += 1
                return split(outputs, [one.rows for one in batch])
            except WorkerLost as lost:
                together = WorkerLost(lost.code, lost.reason, suspect=lost.suspect, joined=True)
                return [together] * len(batch)  # any of them may be the cause: each is tried again alone
            except (Refused, ValueError):
                pass  # one of them is wrong, or the answer has no rows: the others must not suffer for it
        return await asyncio.gather(*(self._worker.infer(one.inputs, one.parameters) for one in batch), return_exceptions=True)


def join(requests: Sequence[Sequence[Raw]]) -> Answer:
    """Return one question of all rows, in order."""
    joined = []
    for parts in zip(*requests, strict=True):
        rows = sum(part.shape[0] for part in parts)
        joined.append(Raw(parts[0].name, parts[0].datatype, (rows, *parts[0].shape[1:]), b"".join(part.data for part in parts)))
    return tuple(joined)


def split(outputs: Sequence[Raw], rows: Sequence[int]) -> list[Answer]:
    """Return each request's part of the answer.

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
    """Return where rows begin, and where the last ends."""
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
