"""Serve OpenAI's chat completions for models that hold conversations, so that stock clients work unchanged.

An error is `{"error": {"message": ..., "type": ..., "code": ...}}`, with the statuses of the Open Inference Protocol beside this. A stream
is server-sent events, a chunk each, and `[DONE]`. A client that hangs up ends the generation, also one that is not streamed or not begun.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from node.core.inference.chat_request import parse_chat
from node.serving.bodies import Disconnected, read_body
from node.serving.http_status import retry_after, status_of
from node.serving.loaded_model import LoadedModel
from node.serving.request_telemetry import Observing, Turn, asked_in
from node.serving.worker_pool import WorkerPool
from schemas.errors import Code, FleetcastError, Refused
from schemas.limits import KIB

log = structlog.get_logger(__name__)

CHAT_BYTES_MAX: Final = 256 * KIB  # a conversation longer than any context that a device holds
CHUNKS_WAITING_MAX: Final = 1024  # Bound for one stream whose reader is slow; beyond it the stream is given up.
STALLED_SECONDS_MAX: Final = 30.0  # that a reader may take none of what is ready for it

Chunk = Mapping[str, Any]


def chat_routes(pool: WorkerPool, observing: Observing, *, node: str) -> list[Route]:
    """Return what to mount beside the Open Inference Protocol."""
    chats = Chats(pool, node)
    return [
        Route("/v1/chat/completions", Completions(pool, observing), methods=["POST"]),
        Route("/v1/models", chats.models),
        Route("/v1/models/{model}", chats.model),
    ]


class Chats:
    """Describe which models of one node hold conversations."""

    def __init__(self, pool: WorkerPool, node: str) -> None:
        self._pool, self._node = pool, node

    async def models(self, request: Request) -> JSONResponse:
        """Answer GET /v1/models: those that hold conversations."""
        return JSONResponse({"object": "list", "data": [self._entry(loaded) for loaded in self._chatting()]})

    async def model(self, request: Request) -> JSONResponse:
        """Answer GET /v1/models/<model>."""
        for loaded in self._chatting():
            if loaded.staged.model == request.path_params["model"]:
                return JSONResponse(self._entry(loaded))
        self._pool.check_not_coming(request.path_params["model"])
        name = request.path_params["model"][:64]
        return openai_error(Refused(Code.RELEASE_UNKNOWN, f"model {name!r} holds no conversations here"))

    def _chatting(self) -> list[LoadedModel]:
        return [loaded for slot in self._pool.slots.values() if (loaded := slot.current) is not None and loaded.chats]

    def _entry(self, loaded: LoadedModel) -> dict[str, Any]:
        created = loaded.staged.manifest.created
        return {"id": loaded.staged.model, "object": "model", "created": created, "owned_by": self._node, "version": loaded.staged.version}


class Completions:
    """Answer POST /v1/chat/completions: plain ASGI, because only so a client is watched while the model thinks."""

    def __init__(self, pool: WorkerPool, observing: Observing) -> None:
        self._pool, self._observing = pool, observing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold one turn of a conversation."""
        try:
            turn = parse_chat(await read_body(receive, CHAT_BYTES_MAX))
        except FleetcastError as error:
            self._observing.traffic.unmatched += 1
            await openai_error(error)(scope, receive, send)
            return
        except Disconnected:
            return
        reply = Reply(self._pool, self._observing, turn)
        talking = asyncio.create_task(reply.streamed(scope, receive, send) if turn["stream"] else reply.whole(scope, receive, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((talking, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (talking, leaving):
                task.cancel()
            ends = await asyncio.gather(talking, leaving, return_exceptions=True)
        if isinstance(ends[0], Exception):
            raise ends[0]


class Reply:
    """Send one answer, as a whole or as it comes."""

    def __init__(self, pool: WorkerPool, observing: Observing, turn: dict[str, Any]) -> None:
        self._pool, self._observing = pool, observing
        self._turn, self._model = turn, str(turn["model"])
        self._created = int(time.time())

    async def whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a JSON object."""
        response: Response
        try:
            loaded, answer = await self._asked(lambda loaded, chunk: None)
            response = JSONResponse({**own(answer), **self._whose(loaded)})
        except FleetcastError as error:
            response = openai_error(error)
        await response(scope, receive, send)

    async def streamed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send server-sent events. The headers wait for the first chunk, so that a refusal is still an error with a status."""
        chunks: asyncio.Queue[Chunk | None] = asyncio.Queue(CHUNKS_WAITING_MAX + 1)  # one more for the end

        def report(loaded: LoadedModel, chunk: Chunk) -> None:
            if chunks.qsize() < CHUNKS_WAITING_MAX:
                chunks.put_nowait({**own(chunk), **self._whose(loaded)})
            else:
                asking.cancel()

        asking = asyncio.create_task(self._asked(report))
        asking.add_done_callback(lambda _: chunks.put_nowait(None))
        try:
            first = await chunks.get()
            if first is None and (error := _failure(asking)) is not None:
                await openai_error(error)(scope, receive, send)
                return
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            chunk = first
            while chunk is not None:
                await _sent(send, json.dumps(chunk, separators=(",", ":")))
                chunk = await chunks.get()
            error = _failure(asking)
            await _sent(send, "[DONE]" if error is None else json.dumps(fields_of(error)))
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.warning("chat.reader_stalled", model=self._model, seconds=STALLED_SECONDS_MAX)
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError, FleetcastError):
                await asking

    async def _asked(self, report: Callable[[LoadedModel, Chunk], None]) -> tuple[LoadedModel, Chunk]:
        """Return the pool's answer, which is reported to telemetry however it ends: also when nobody waits for it any more."""
        turn, began = Turn(asked_in(self._turn["messages"])), time.perf_counter()

        def add(loaded: LoadedModel, chunk: Chunk) -> None:
            turn.add(loaded, chunk)
            if chunk:  # an empty one only says that work goes on
                report(loaded, chunk)

        try:
            loaded, answer = await self._pool.chat(self._model, self._turn, add)
        except asyncio.CancelledError:
            turn.abandon()
            self._observing.turned(turn, _ms_since(began))
            raise
        except FleetcastError as error:
            self._observing.failed(self._model, None, error, _ms_since(began), turn)
            raise
        turn.end(loaded, answer)
        self._observing.turned(turn, _ms_since(began))
        return loaded, answer

    def _whose(self, loaded: LoadedModel) -> dict[str, Any]:
        """Name the model in place of what the runtime says, which names a path of this device."""
        return {"model": loaded.staged.model, "system_fingerprint": loaded.staged.digest.hex()[:16], "created": self._created}


def own(chunk: Chunk) -> dict[str, Any]:
    """Return an answer without what it says of other conversations: how many of its tokens were in the model's memory already, and how long
    the others took.
    """
    shown = {name: value for name, value in chunk.items() if name not in ("timings", "prompt_progress")}
    if isinstance(usage := shown.get("usage"), Mapping):
        shown["usage"] = {name: value for name, value in usage.items() if name != "prompt_tokens_details"}
    return shown


def openai_error(error: FleetcastError) -> JSONResponse:
    """Return an expected error as OpenAI's clients read it."""
    status = status_of(error)
    headers = retry_after(error) if status == 503 else {"Connection": "close"} if status == 413 else None
    return JSONResponse(fields_of(error), status, headers)


def fields_of(error: FleetcastError) -> dict[str, Any]:
    """Return its fields."""
    code = str(error.code) if isinstance(error, Refused) else "unavailable"
    kind = "invalid_request_error" if status_of(error) < 500 else "server_error"
    return openai_fields(error.reason if isinstance(error, Refused) else str(error), kind, code)


def openai_fields(message: str, kind: str, code: str) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def _failure(asking: "asyncio.Task[Any]") -> FleetcastError | None:
    if asking.cancelled():
        return Refused(Code.REQUEST_INVALID, f"the stream was not read: {CHUNKS_WAITING_MAX} chunks waited for it")
    error = asking.exception()
    if error is None or isinstance(error, FleetcastError):
        return error
    raise error


async def _sent(send: Send, data: str) -> None:
    async with asyncio.timeout(STALLED_SECONDS_MAX):
        await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
