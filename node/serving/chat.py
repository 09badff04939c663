"""OpenAI's chat completions for models that hold conversations, so that stock clients work unchanged.

An error is `{"error": {"message": ..., "type": ..., "code": ...}}`, with the statuses of the Open Inference Protocol beside this. A stream
is server-sent events, a chunk each, and `[DONE]`; whoever hangs up ends the generation.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from node.core.tensors import refuse_request
from node.serving.held import Held
from node.serving.routing import Router
from node.serving.statuses import RETRY_AFTER_SECONDS, status_of
from schemas.errors import Code, FleetcastError, Refused, mismatch
from schemas.limits import KIB

log = structlog.get_logger(__name__)

CHAT_BYTES_MAX: Final = 256 * KIB  # a conversation longer than any context that a device holds
CHUNKS_WAITING_MAX: Final = 1024  # of one stream whose reader is slow; beyond it is given up


def chat_routes(router: Router, *, node: str) -> list[Route]:
    """What to mount beside the Open Inference Protocol."""
    chats = Chats(router, node)
    return [
        Route("/v1/chat/completions", chats.completions, methods=["POST"]),
        Route("/v1/models", chats.models),
        Route("/v1/models/{model}", chats.model),
    ]


class Chats:
    """Conversations with the models of one node."""

    def __init__(self, router: Router, node: str) -> None:
        self._router, self._node = router, node

    async def models(self, request: Request) -> JSONResponse:
        """GET /v1/models: those that hold conversations."""
        return JSONResponse({"object": "list", "data": [self._entry(held) for held in self._chatting()]})

    async def model(self, request: Request) -> JSONResponse:
        """GET /v1/models/<model>."""
        for held in self._chatting():
            if held.staged.model == request.path_params["model"]:
                return JSONResponse(self._entry(held))
        name = request.path_params["model"][:64]
        return _error(Refused(Code.RELEASE_UNKNOWN, f"model {name!r} holds no conversations here"))

    async def completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        try:
            body = await _body(request)
            model = body.get("model")
            if not isinstance(model, str):
                raise refuse_request("model must be the name of a model")
            if body.get("n", 1) != 1:
                raise mismatch(Code.REQUEST_INVALID, "n", expected=1, actual=str(body["n"])[:64])
            if body.get("stream") is True:
                return await self._stream(model, body)
            held, answer = await self._router.chat(model, {**body, "stream": False}, lambda chunk: None)
            return JSONResponse({**answer, **_whose(held)})
        except FleetcastError as error:
            return _error(error)
        except ClientDisconnect:
            return Response(status_code=400)

    async def _stream(self, model: str, body: Mapping[str, Any]) -> Response:
        """The headers wait for the first chunk, so that a refusal is still an error with a status."""
        chunks: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue(CHUNKS_WAITING_MAX)
        heard = self._router.find(model, None)

        def say(chunk: Mapping[str, Any]) -> None:
            try:
                chunks.put_nowait(chunk)
            except asyncio.QueueFull:
                task.cancel()

        async def ask() -> None:
            try:
                await self._router.chat(model, body, say)
            finally:
                with suppress(asyncio.QueueFull):
                    chunks.put_nowait(None)

        task = asyncio.get_running_loop().create_task(ask())
        try:
            first = await chunks.get()
        except asyncio.CancelledError:
            task.cancel()
            raise
        if first is None:
            await task  # raises what went wrong
        return StreamingResponse(_events(first, chunks, task, heard), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    def _chatting(self) -> list[Held]:
        return [held for slot in self._router.slots.values() if (held := slot.current) is not None and held.chats]

    def _entry(self, held: Held) -> dict[str, Any]:
        created = held.staged.manifest.created
        return {"id": held.staged.model, "object": "model", "created": created, "owned_by": self._node, "version": held.staged.version}


async def _events(
    first: Mapping[str, Any] | None, chunks: "asyncio.Queue[Mapping[str, Any] | None]", task: "asyncio.Task[None]", held: Held
) -> AsyncIterator[bytes]:
    try:
        chunk = first
        while chunk is not None:
            yield _event(json.dumps({**chunk, **_whose(held)}, separators=(",", ":")))
            chunk = await chunks.get()
        await task
        yield _event("[DONE]")
    except FleetcastError as error:  # the status is sent already
        yield _event(json.dumps(_fields(error)))
    finally:
        task.cancel()


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


def _whose(held: Held) -> dict[str, Any]:
    """In place of what the runtime says, which names a path of this device."""
    return {"model": held.staged.model, "system_fingerprint": held.staged.digest.hex()[:16], "created": int(time.time())}


async def _body(request: Request) -> dict[str, Any]:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > CHAT_BYTES_MAX:
            raise mismatch(Code.SCHEMA_TOO_LARGE, "body bytes", expected=f"at most {CHAT_BYTES_MAX}", actual=f"{size} or more")
        parts.append(part)
    try:
        body = json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise refuse_request("the body is not a JSON object")
    return body


def _fields(error: FleetcastError) -> dict[str, Any]:
    code = str(error.code) if isinstance(error, Refused) else "unavailable"
    kind = "invalid_request_error" if status_of(error) < 500 else "server_error"
    return {"error": {"message": error.reason if isinstance(error, Refused) else str(error), "type": kind, "code": code}}


def _error(error: FleetcastError) -> JSONResponse:
    status = status_of(error)
    return JSONResponse(_fields(error), status, {"Retry-After": RETRY_AFTER_SECONDS} if status == 503 else None)
