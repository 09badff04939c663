"""The Open Inference Protocol v2 over REST, with the binary tensor extension. Knows requests and responses, and nothing about workers.

An error is `{"error": "..."}`, with the statuses of `statuses.py`.
"""

import asyncio
import time
import zlib
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from node.core.oip import BODY_BYTES_MAX, encode_response, model_metadata
from node.core.tensors import json_elements, refuse_request
from node.serving.chat import chat_routes
from node.serving.held import Busy, Held, Observation
from node.serving.routing import CLIENTS_FAULT, Router
from node.serving.statuses import RETRY_AFTER_SECONDS, status_of
from schemas.errors import Code, FleetcastError, Refused, mismatch
from schemas.limits import MIB

log = structlog.get_logger(__name__)

BODIES_BYTES_MAX: Final = 256 * MIB  # of all requests together: four of the largest, and a device still has memory for models


class Disconnected(Exception):
    """The client went away before its request was whole."""


def application(router: Router, *, node: str, on_rows: Callable[[Observation], None]) -> Starlette:
    """The ASGI application of one node."""
    infer = Infer(router, on_rows)
    health = Health(router, node)
    one, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    routes = [Route(f"{path}/infer", infer, methods=["POST"]) for path in (one, versioned)]  # the busy ones first: matched in order
    routes += [Route(f"{path}/ready", health.model_ready) for path in (one, versioned)]
    routes += [Route(f"{path}/stats", health.statistics) for path in (one, versioned)]
    routes += [Route(path, health.model) for path in (one, versioned)]
    routes += [Route("/v2/repository/index", health.index, methods=["POST"])]
    routes += chat_routes(router, node=node)
    routes += [Route("/v2", health.server), Route("/v2/health/live", health.live), Route("/v2/health/ready", health.ready)]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error, FleetcastError: _error, Exception: _our_bug})


class Health:
    """Who is here, and whether it can answer."""

    def __init__(self, router: Router, node: str) -> None:
        self._router = router
        self._metadata = {
            "name": node,
            "version": version_of("fleetcast"),
            "extensions": ["binary_tensor_data", "model_repository", "statistics"],
        }

    async def server(self, request: Request) -> JSONResponse:
        """GET /v2."""
        return JSONResponse(self._metadata)

    async def live(self, request: Request) -> JSONResponse:
        """GET /v2/health/live."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> JSONResponse:
        """GET /v2/health/ready: something is served, and all that is served can answer."""
        return _readiness({}, is_ready=self._router.ready())

    async def model(self, request: Request) -> JSONResponse:
        """GET /v2/models/<model>: metadata of the current release, or of the version named."""
        model = request.path_params["model"]
        held = self._router.find(model, request.path_params.get("version"))
        return JSONResponse(
            model_metadata(
                model=model,
                versions=self._router.versions(model),
                platform=held.platform,
                inputs=held.inputs,
                outputs=held.outputs,
                parameters={**{name: json_elements(raw)[0] for name, raw in held.parameters.inputs.items()}, **in_words(held)},
            )
        )

    async def index(self, request: Request) -> JSONResponse:
        """POST /v2/repository/index: every release that is held here (the protocol's model repository extension)."""
        return JSONResponse(self._router.index())

    async def statistics(self, request: Request) -> JSONResponse:
        """GET /v2/models/<model>/stats: requests, failures and latency of the current release, or of the version named."""
        held = self._router.find(request.path_params["model"], request.path_params.get("version"))
        stats = held.stats()
        fields = {"name": held.staged.model, "version": held.staged.version, "inference_count": stats.requests, "failures": stats.errors}
        return JSONResponse({**fields, "latency_ms_p50": stats.latency_ms_p50, "latency_ms_p99": stats.latency_ms_p99})

    async def model_ready(self, request: Request) -> JSONResponse:
        """GET /v2/models/<model>/ready."""
        held = self._router.find(request.path_params["model"], request.path_params.get("version"))
        return _readiness({"name": held.staged.model}, is_ready=held.worker is not None and held.worker.alive)


class Infer:
    """POST .../infer: plain ASGI, because a request object and a response object would cost more than many models do."""

    def __init__(self, router: Router, on_rows: Callable[[Observation], None]) -> None:
        self._router = router
        self._on_rows = on_rows
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, then let telemetry look at it."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        path = scope["path_params"]
        reserved, began = 0, time.perf_counter()
        try:
            header_bytes = _integer(headers, b"inference-header-content-length")
            reserved = self._reserve(headers)
            body = await _body(receive, headers, reserved)
            answer = await self._router.answer(path["model"], path.get("version"), body, header_bytes)
            payload, json_bytes = encode_response(
                answer.request,
                model=path["model"],
                version=answer.held.staged.version,
                answers=answer.outputs,
                parameters=answer.held.parameters.client,
            )
        except FleetcastError as error:
            await _error_response(error)(scope, receive, send)
            if not (isinstance(error, Refused) and error.code in CLIENTS_FAULT):
                self._tell(lambda: self._failure(path["model"], path.get("version"), began))
            return
        except Disconnected:
            return
        finally:
            self._bodies_bytes -= reserved
        latency_ms = (time.perf_counter() - began) * 1e3
        for message in _response(payload, json_bytes):
            await send(message)
        self._tell(lambda: answer.observation(latency_ms))

    def _tell(self, seen: Callable[[], Observation | None]) -> None:
        """Have telemetry look at a request; what goes wrong with it is no client's business."""
        try:
            if (found := seen()) is not None:
                self._on_rows(found)
        except Exception:
            log.exception("telemetry.failed")

    def _failure(self, model: str, version: str | None, began: float) -> Observation | None:
        """A request that was not answered, through no fault of the client; None where no release is there to answer for it."""
        try:
            staged = self._router.find(model, version).staged
        except FleetcastError:
            return None
        latency_ms = (time.perf_counter() - began) * 1e3
        return Observation(model, staged.digest, {}, {}, 1, None, latency_ms=latency_ms, failed=True)

    def _reserve(self, headers: dict[bytes, bytes]) -> int:
        declared = _integer(headers, b"content-length")
        if declared is not None and declared > BODY_BYTES_MAX:
            raise mismatch(Code.SCHEMA_TOO_LARGE, "body bytes", expected=f"at most {BODY_BYTES_MAX}", actual=declared)
        # A chunked or compressed body may turn out as large as any.
        size = BODY_BYTES_MAX if declared is None or b"content-encoding" in headers else declared
        if self._bodies_bytes + size > BODIES_BYTES_MAX:
            raise Busy(f"requests of {self._bodies_bytes} bytes are being answered already")
        self._bodies_bytes += size
        return size


async def _body(receive: Receive, headers: dict[bytes, bytes], bytes_max: int) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            raise mismatch(Code.SCHEMA_TOO_LARGE, "body bytes", expected=f"at most {bytes_max}", actual=f"{size} or more")
        more = message.get("more_body", False)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise mismatch(Code.REQUEST_INVALID, "Content-Encoding", expected="gzip, deflate or none", actual=encoding[:64])
    return await asyncio.to_thread(_decompress, body)


def _decompress(body: bytes) -> bytes:
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its header
    try:
        unpacked = inflate.decompress(body, BODY_BYTES_MAX + 1)
    except zlib.error:
        raise refuse_request("the body is not what its Content-Encoding says") from None
    if len(unpacked) > BODY_BYTES_MAX:
        raise mismatch(Code.SCHEMA_TOO_LARGE, "body bytes decompressed", expected=f"at most {BODY_BYTES_MAX}", actual="more")
    if not inflate.eof:
        raise refuse_request("the compressed body is cut off")
    return unpacked


def _integer(headers: dict[bytes, bytes], name: bytes) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isdigit() and len(text) <= 18):
        raise refuse_request(f"{name.decode()} must be a whole number")
    return int(text)


def _response(payload: bytes, json_bytes: int | None) -> tuple[Message, Message]:
    headers = [(b"content-length", str(len(payload)).encode())]
    if json_bytes is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers += [(b"content-type", b"application/octet-stream"), (b"inference-header-content-length", str(json_bytes).encode())]
    return {"type": "http.response.start", "status": 200, "headers": headers}, {"type": "http.response.body", "body": payload}


def in_words(held: Held) -> dict[str, Any]:
    """Parameters of a release that no input takes, as they are in force."""
    return {**held.parameters.runtime, **held.parameters.client}


def _readiness(fields: dict[str, Any], *, is_ready: bool) -> JSONResponse:
    if is_ready:
        return JSONResponse({**fields, "ready": True})
    return JSONResponse({**fields, "ready": False, "error": "not ready"}, 503, {"Retry-After": RETRY_AFTER_SECONDS})


def _error_response(error: FleetcastError) -> JSONResponse:
    status = status_of(error)
    if not isinstance(error, Refused):
        return JSONResponse({"error": str(error)}, status, {"Retry-After": RETRY_AFTER_SECONDS})
    # What is too large is not read to its end, so the connection cannot be used again.
    return JSONResponse({"error": error.reason}, status, {"Connection": "close"} if status == 413 else None)


async def _error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FleetcastError)  # noqa: S101  # Starlette picks the handler by class
    return _error_response(error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    return JSONResponse({"error": f"{request.method} {request.url.path[:256]}: {error.detail}"}, error.status_code, error.headers)


async def _our_bug(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "internal error; the node's log has it"}, 500)  # the server raises it again, loudly
