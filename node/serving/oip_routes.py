"""Serve the Open Inference Protocol v2 over REST, with the binary tensor extension. Knows requests and responses, and nothing about
workers.

An error is `{"error": "..."}`, with the statuses of `statuses.py`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version as version_of
from importlib.resources import files
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from node.core.doctor.agent_health import AgentStatus
from node.core.inference.oip import BODY_BYTES_MAX, encode_response, model_metadata
from node.core.inference.tensors import Buffer, json_elements, refuse_request
from node.serving.accuracy_route import OnLabels, label_routes
from node.serving.bodies import Disconnected, decompressed, read_body
from node.serving.chat import chat_routes, openai_error, openai_fields
from node.serving.connection import WHOLE, Cycle
from node.serving.cross_site_check import Foreign
from node.serving.http_status import retry_after, status_of
from node.serving.loaded_model import Busy, LoadedModel
from node.serving.memory_trimmer import MemoryTrimmer
from node.serving.metrics import metrics_route
from node.serving.request_telemetry import Observing
from node.serving.worker_pool import WorkerPool
from schemas.errors import Code, FleetcastError, Refused, mismatch
from schemas.limits import MIB

log = structlog.get_logger(__name__)

OUR_BUG: Final = {"error": "internal error; the node's log has it"}
PLAIN_INFER: Final = re.compile(r"/v2/models/([^/]+)/infer")
BODIES_BYTES_MAX: Final = 256 * MIB  # All requests together: four of the largest, and a device still has memory for models
COMING_NAMED_MAX: Final = 4  # Models that an answer about readiness names.
INFLATING_MAX: Final = 2  # compressed bodies that are unpacked at once: each may turn out as large as any


def application(
    pool: WorkerPool,
    *,
    node: str,
    observing: Observing,
    on_labels: OnLabels | None = None,
    foreign: Foreign | None = None,
    status: Callable[[], AgentStatus | None] = lambda: None,
    counts_to_all: bool = False,
) -> ASGIApp:
    """Return the ASGI application of one node; without `on_labels` it takes no counts of right answers."""
    foreign = foreign or Foreign()
    infer = Infer(pool, observing)
    routes = routes_of(pool, observing, infer, node=node, on_labels=on_labels, status=status, counts_to_all=counts_to_all)
    rest = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, FleetcastError: _error, Exception: _our_bug})

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        """Take inference on a model's current release straight to where it is answered: matching routes costs as much as many models do."""
        if scope["type"] == "http":
            try:
                foreign.check(scope)
            except Refused as refusal:
                log.info("request.refused", code=str(refusal.code), reason=refusal.reason)
                refuse = openai_error if scope["path"].startswith("/v1/") else _error_response
                await refuse(refusal)(scope, receive, send)
                return
        if scope["type"] == "http" and scope["method"] == "POST" and (plain := PLAIN_INFER.fullmatch(scope["path"])):
            try:
                await infer({**scope, "path_params": {"model": plain[1]}}, receive, send)
            except Exception:
                log.exception("infer.failed", model=plain[1])
                await JSONResponse(OUR_BUG, 500)(scope, receive, send)
        else:
            await rest(scope, receive, send)

    return _with_origins(front, foreign.origins) if foreign.origins else front


def routes_of(
    pool: WorkerPool,
    observing: Observing,
    infer: "Infer",
    *,
    node: str,
    on_labels: OnLabels | None,
    status: Callable[[], AgentStatus | None],
    counts_to_all: bool = False,
) -> list[Route]:
    """Return every route of a node. `node/serving/openapi.json` describes them all."""
    health = Health(pool, node)
    one, versioned = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    routes = [Route(f"{path}/infer", infer, methods=["POST"]) for path in (one, versioned)]
    routes += [Route(f"{path}/ready", health.model_ready) for path in (one, versioned)]
    routes += [Route(path, health.statistics) for path in ("/v2/models/stats", f"{one}/stats", f"{versioned}/stats")]
    routes += [Route(path, health.model) for path in (one, versioned)]
    routes += [Route("/v2/repository/index", health.index, methods=["POST"])]
    routes += label_routes(on_labels) if on_labels is not None else []
    routes += chat_routes(pool, observing, node=node)
    metrics = metrics_route(pool, observing, status, software=version_of("fleetcast"), shows_all=counts_to_all)
    routes += [metrics, Route("/openapi.json", openapi)]
    routes += [Route("/v2", health.server), Route("/v2/health/live", health.live), Route("/v2/health/ready", health.ready)]
    return routes


async def openapi(request: Request) -> Response:
    """Answer GET /openapi.json."""
    return Response(files("node.serving").joinpath("openapi.json").read_bytes(), media_type="application/json")


def _with_origins(front: ASGIApp, origins: frozenset[str]) -> ASGIApp:
    """Have browsers let pages of these origins ask and read (CORS)."""
    headers = ["content-type", "content-encoding", "inference-header-content-length"]
    shared = CORSMiddleware(
        front, allow_origins=sorted(origins), allow_methods=["GET", "POST"], allow_headers=headers, expose_headers=headers[2:]
    )

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if any(name == b"origin" for name, _ in scope.get("headers", ())):
            await shared({**scope, "extensions": {}}, receive, send)  # what answers past the middleware has none of its fields
        else:
            await front(scope, receive, send)

    return answer


class Health:
    """Answer which models are here, and whether they can answer."""

    def __init__(self, pool: WorkerPool, node: str) -> None:
        self._pool = pool
        self._metadata = {
            "name": node,
            "version": version_of("fleetcast"),
            "extensions": ["binary_tensor_data", "model_repository", "statistics"],
        }

    async def server(self, request: Request) -> JSONResponse:
        """Answer GET /v2."""
        return JSONResponse(self._metadata)

    async def live(self, request: Request) -> JSONResponse:
        """Answer GET /v2/health/live."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> JSONResponse:
        """Answer GET /v2/health/ready: something is served, and all that is served can answer. `live` is the field that the protocol
        names.
        """
        coming = [str(one.busy(model)) for model, one in sorted(self._pool.coming.items())]
        return _readiness({"live": True}, is_ready=self._pool.ready(), why="; ".join(coming[:COMING_NAMED_MAX]) or "not ready")

    async def model(self, request: Request) -> JSONResponse:
        """Answer GET /v2/models/<model>: metadata of the current release, or of the version named."""
        model = request.path_params["model"]
        loaded = self._pool.find(model, request.path_params.get("version"))
        return JSONResponse(
            model_metadata(
                model=model,
                versions=self._pool.versions(model),
                platform=loaded.platform,
                inputs=loaded.inputs,
                outputs=loaded.outputs,
                parameters={**{name: json_elements(raw)[0] for name, raw in loaded.parameters.inputs.items()}, **in_words(loaded)},
            )
        )

    async def index(self, request: Request) -> JSONResponse:
        """Answer POST /v2/repository/index: every release that is loaded here (the protocol's model repository extension)."""
        return JSONResponse(self._pool.index())

    async def statistics(self, request: Request) -> JSONResponse:
        """Answer GET /v2/models[/<model>[/versions/<version>]]/stats: the statistics extension, as far as it is counted here, and more."""
        model = request.path_params.get("model")
        if model is None:
            return JSONResponse({"model_stats": [_statistics(self._pool.find(one, None)) for one in self._pool.models()]})
        return JSONResponse({"model_stats": [_statistics(self._pool.find(model, request.path_params.get("version")))]})

    async def model_ready(self, request: Request) -> JSONResponse:
        """Answer GET /v2/models/<model>/ready."""
        loaded = self._pool.find(request.path_params["model"], request.path_params.get("version"))
        return _readiness({"name": loaded.staged.model}, is_ready=loaded.live)


class Infer:
    """Answer POST .../infer: plain ASGI, because a request object and a response object would cost more than many models do."""

    def __init__(self, pool: WorkerPool, observing: Observing) -> None:
        self._pool = pool
        self._observing = observing
        self._bodies_bytes = 0
        self._trimmer = MemoryTrimmer()
        self._inflating = asyncio.Semaphore(INFLATING_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, then let telemetry look at it."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        path = scope["path_params"]
        answer, reserved, began = None, 0, time.perf_counter()
        moved = 0
        try:
            header_bytes = _integer(headers, b"inference-header-content-length")
            reserved = self._reserve(headers)
            whole: Cycle | None = scope.get("extensions", {}).get(WHOLE)
            body = whole.whole_body() if whole is not None else None
            body = await self._body(receive, headers, reserved, body)
            moved = len(body)
            answer = await self._pool.answer(path["model"], path.get("version"), body, header_bytes)
            payload, json_bytes = encode_response(
                answer.request,
                model=path["model"],
                version=answer.loaded.staged.version,
                answers=answer.outputs,
                parameters=answer.loaded.parameters.client,
            )
        except FleetcastError as error:
            await _error_response(error)(scope, receive, send)
            if answer is not None:  # the model has answered, with what this client could not be given
                self._observing.answered(answer, _ms_since(began))
            else:
                self._observing.failed(path["model"], path.get("version"), error, _ms_since(began))
            return
        except Disconnected:
            return
        finally:
            self._bodies_bytes -= reserved
            self._trimmer.noticed(moved + (sum(len(raw.data) for raw in answer.outputs) if answer is not None else 0))
        latency_ms = _ms_since(began)
        await _respond(scope, send, payload, json_bytes)
        self._observing.answered(answer, latency_ms)

    def _reserve(self, headers: dict[bytes, bytes]) -> int:
        declared = _integer(headers, b"content-length")
        if declared is not None and declared > BODY_BYTES_MAX:
            raise mismatch(Code.SCHEMA_TOO_LARGE, "body bytes", expected=f"at most {BODY_BYTES_MAX}", actual=declared)
        size = BODY_BYTES_MAX if declared is None else declared  # a chunked body may turn out as large as any
        if self._bodies_bytes + size > BODIES_BYTES_MAX:
            raise Busy(f"requests of {self._bodies_bytes} bytes are being answered already")
        self._bodies_bytes += size
        return size

    async def _body(self, receive: Receive, headers: dict[bytes, bytes], bytes_max: int, body: bytes | None) -> bytes:
        """Return the body: the one that is here already, or what comes."""
        if body is None:
            body = await read_body(receive, bytes_max)
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
        if encoding == "identity":
            return body
        if encoding not in ("gzip", "deflate"):
            raise mismatch(Code.REQUEST_INVALID, "Content-Encoding", expected="gzip, deflate or none", actual=encoding[:64])
        async with self._inflating:
            return await asyncio.to_thread(decompressed, body)


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def _integer(headers: dict[bytes, bytes], name: bytes) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isdigit() and len(text) <= 18):
        raise refuse_request(f"{name.decode()} must be a whole number")
    return int(text)


async def _respond(scope: Scope, send: Send, payload: Sequence[Buffer], json_bytes: int | None) -> None:
    """Respond in one piece where the server can, which it says with an extension."""
    headers = [(b"content-length", b"%d" % sum(len(part) for part in payload))]
    if json_bytes is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers += [(b"content-type", b"application/octet-stream"), (b"inference-header-content-length", b"%d" % json_bytes)]
    whole: Cycle | None = scope.get("extensions", {}).get(WHOLE)
    if whole is not None:
        await whole.answer(200, headers, payload)
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"".join(payload)})


def _statistics(loaded: LoadedModel) -> dict[str, Any]:
    """Return what was counted since the release was switched to; durations in nanoseconds, as the extension has them."""
    stats = loaded.stats()
    success = {"count": loaded.requests, "ns": int(loaded.seconds * 1e9)}
    return {
        "name": loaded.staged.model,
        "version": loaded.staged.version,
        "last_inference": int(loaded.last * 1000),
        "inference_count": loaded.rows,
        "execution_count": loaded.requests,
        "inference_stats": {"success": success, "fail": {"count": loaded.errors, "ns": int(loaded.failed_seconds * 1e9)}},
        "latency_ms_p50": stats.latency_ms_p50,
        "latency_ms_p99": stats.latency_ms_p99,
        "joined_count": stats.joined,
        "worker_deaths": stats.deaths,
    }


def in_words(loaded: LoadedModel) -> dict[str, Any]:
    """Return parameters of a release that no input takes, as they are in force."""
    return {**loaded.parameters.runtime, **loaded.parameters.client}


def _readiness(fields: dict[str, Any], *, is_ready: bool, why: str = "not ready") -> JSONResponse:
    if is_ready:
        return JSONResponse({**fields, "ready": True})
    return JSONResponse({**fields, "ready": False, "error": why}, 503, retry_after())


def _error_response(error: FleetcastError) -> JSONResponse:
    status = status_of(error)
    if not isinstance(error, Refused):
        return JSONResponse({"error": str(error)}, status, retry_after(error))
    # What is too large, or of a stranger, is not read to its end, so the connection cannot be used again.
    return JSONResponse({"error": error.reason}, status, {"Connection": "close"} if status in (403, 413, 415) else None)


def _for_openai(request: Request) -> bool:
    return request.url.path.startswith("/v1/")


async def _error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FleetcastError)  # noqa: S101  # Starlette picks the handler by class
    return openai_error(error) if _for_openai(request) else _error_response(error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    sentence = f"{request.method} {request.url.path[:256]}: {error.detail}"
    if _for_openai(request):
        return JSONResponse(openai_fields(sentence, "invalid_request_error", "http"), error.status_code, error.headers)
    return JSONResponse({"error": sentence}, error.status_code, error.headers)


async def _our_bug(request: Request, error: Exception) -> JSONResponse:
    fields = openai_fields(OUR_BUG["error"], "server_error", "internal") if _for_openai(request) else OUR_BUG
    return JSONResponse(fields, 500)  # the server raises it again, loudly
