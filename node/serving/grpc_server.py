"""Serve the Open Inference Protocol over gRPC, beside REST (extra `grpc`): the same pool, checks, telemetry and errors.

A request is turned into the body that the REST form would have, so that everything is parsed in one place. A browser cannot ask here: it
speaks no HTTP/2 without TLS.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from importlib.metadata import version as version_of
from typing import Any, Final

import grpc
import numpy as np
import structlog

from node.core.inference.tensors import DTYPES, LENGTH, Raw, json_elements, refuse_request
from node.serving.grpc_messages import SERVICE, message_classes
from node.serving.http_status import status_of
from node.serving.loaded_model import Answer
from node.serving.request_telemetry import Observing
from node.serving.worker_pool import WorkerPool
from schemas.errors import Code, FleetcastError, Refused, mismatch
from schemas.limits import MIB

log = structlog.get_logger(__name__)

MESSAGE_BYTES_MAX: Final = 16 * MIB
REQUESTS_MAX: Final = 16  # at once: each holds a thread, and a message of any size
ANSWER_SECONDS_MAX: Final = 3600.0  # the pool has its own bounds; this one only ends a thread that waits for a loop that is gone
STOP_SECONDS_MAX: Final = 5.0
CONNECTIONS_MAX: Final = 128  # One more is closed: gRPC can end idle connections after a time, and not to make room.
IDLE_SECONDS_MAX: Final = 60  # without a call
HANDSHAKE_SECONDS_MAX: Final = 5  # until a connection speaks HTTP/2
STATUS: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Where typed contents of a datatype stand; FP16 travels raw only.
CONTENTS: Final = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class GrpcServer:
    """Listen on a port, and pass each call to the loop that serves REST."""

    def __init__(self, pool: WorkerPool, observing: Observing, loop: asyncio.AbstractEventLoop, *, node: str) -> None:
        self._pool, self._observing, self._loop, self._node = pool, observing, loop, node
        self._messages = message_classes()
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS_MAX * 1000),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS_MAX * 1000),
        ]
        threads = ThreadPoolExecutor(REQUESTS_MAX, thread_name_prefix="grpc")
        self._server = grpc.server(threads, options=options, maximum_concurrent_rpcs=REQUESTS_MAX)
        calls: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._on_loop(call), self._messages[f"{name}Request"].FromString, self._messages[f"{name}Response"].SerializeToString
            )
            for name, call in calls.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def start(self, host: str, port: int) -> int:
        """Listen; return the port.

        Raises:
            Refused: PORT_IN_USE.
        """
        try:
            bound = int(self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise Refused(
                Code.PORT_IN_USE, f"cannot listen for gRPC on {host}:{port}: another program does, or the address is none of ours"
            )
        self._server.start()
        log.info("grpc.started", host=host, port=bound)
        return bound

    def stop(self) -> None:
        """Answer what has begun, for a bounded time."""
        self._server.stop(STOP_SECONDS_MAX).wait()

    def _on_loop(self, call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any, grpc.ServicerContext], Any]:
        async def answer(request: Any) -> Any:
            return await call(request)

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            asked = asyncio.run_coroutine_threadsafe(answer(request), self._loop)
            context.add_callback(asked.cancel)  # the client has gone; nothing where it was answered
            try:
                return asked.result(ANSWER_SECONDS_MAX)
            except FleetcastError as error:
                reason = error.reason if isinstance(error, Refused) else str(error)
                context.abort(STATUS.get(status_of(error), grpc.StatusCode.INTERNAL), reason)
            except CancelledError:
                context.abort(grpc.StatusCode.CANCELLED, "the client has gone")
            except Exception:
                log.exception("grpc.failed")
                context.abort(grpc.StatusCode.INTERNAL, "internal error; the node's log has it")

        return handle

    async def _live(self, request: Any) -> Any:
        return self._messages["ServerLiveResponse"](live=True)

    async def _ready(self, request: Any) -> Any:
        return self._messages["ServerReadyResponse"](ready=self._pool.ready())

    async def _metadata(self, request: Any) -> Any:
        return self._messages["ServerMetadataResponse"](name=self._node, version=version_of("fleetcast"), extensions=[])

    async def _model_ready(self, request: Any) -> Any:
        try:
            live = self._pool.find(request.name, request.version or None).live
        except FleetcastError:
            live = False
        return self._messages["ModelReadyResponse"](ready=live)

    async def _model_metadata(self, request: Any) -> Any:
        loaded = self._pool.find(request.name, request.version or None)
        tensor = self._messages["TensorMetadata"]
        return self._messages["ModelMetadataResponse"](
            name=request.name,
            versions=self._pool.versions(request.name),
            platform=loaded.platform,
            inputs=[tensor(**spec._asdict()) for spec in loaded.inputs],
            outputs=[tensor(**spec._asdict()) for spec in loaded.outputs],
        )

    async def _infer(self, request: Any) -> Any:
        began, version = time.perf_counter(), request.model_version or None
        answer = None
        try:
            body, header_bytes = as_body(request)
            answer = await self._pool.answer(request.model_name, version, body, header_bytes)
            response = self._response(request, answer)
        except FleetcastError as error:
            if answer is None:
                self._observing.failed(request.model_name, version, error, _ms_since(began))
            raise
        finally:
            if answer is not None:
                self._observing.answered(answer, _ms_since(began))
        return response

    def _response(self, request: Any, answer: Answer) -> Any:
        """Return the outputs in the form of the inputs: raw, or typed."""
        typed = bool(request.inputs) and not request.raw_input_contents
        by_name = {raw.name: raw for raw in answer.outputs}
        wanted = [by_name[name] for name, _ in answer.request.outputs]
        typed = typed and all(raw.datatype in CONTENTS for raw in wanted)
        response = self._messages["ModelInferResponse"](
            model_name=request.model_name, model_version=answer.loaded.staged.version, id=request.id
        )
        for raw in wanted:
            output = response.outputs.add(name=raw.name, datatype=raw.datatype, shape=raw.shape)
            if typed:
                getattr(output.contents, CONTENTS[raw.datatype]).extend(_elements(raw))
            else:
                response.raw_output_contents.append(bytes(raw.data))
        for name, value in answer.loaded.parameters.client.items():
            kind = "bool_param" if isinstance(value, bool) else "double_param" if isinstance(value, int | float) else "string_param"
            setattr(response.parameters[name], kind, value if kind != "string_param" or isinstance(value, str) else json.dumps(value))
        return response


def as_body(request: Any) -> tuple[bytes, int]:
    """Return the body that asks the same over REST, with binary tensors, and the length of its JSON.

    Raises:
        Refused: REQUEST_INVALID, the contents are of no such tensor.
    """
    raws = list(request.raw_input_contents)
    if raws and len(raws) != len(request.inputs):
        raise mismatch(Code.REQUEST_INVALID, "raw_input_contents", expected=len(request.inputs), actual=len(raws))
    if not raws:
        raws = [_raw(tensor) for tensor in request.inputs]
    listed = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {**_parameters(tensor.parameters), "binary_data_size": len(raw)},
        }
        for tensor, raw in zip(request.inputs, raws, strict=True)
    ]
    header: dict[str, Any] = {"inputs": listed, "parameters": {**_parameters(request.parameters), "binary_data_output": True}}
    if request.id:
        header["id"] = request.id
    if request.outputs:
        header["outputs"] = [{"name": one.name, "parameters": _parameters(one.parameters)} for one in request.outputs]
    encoded = json.dumps(header).encode()
    return b"".join((encoded, *raws)), len(encoded)


def _raw(tensor: Any) -> bytes:
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise refuse_request(f"input {tensor.name[:64]!r}: {tensor.datatype[:16] or 'no datatype'} travels in raw_input_contents only")
    found = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES":
        return b"".join(LENGTH.pack(len(element)) + element for element in found)
    dtype = DTYPES[tensor.datatype]
    values = np.array(found, {"int_contents": "<i4", "uint_contents": "<u4"}.get(field, dtype))
    cast = values.astype(dtype)
    if not np.array_equal(cast, values, equal_nan=dtype.kind == "f"):
        raise refuse_request(f"input {tensor.name[:64]!r}: a value does not fit {tensor.datatype}")
    return cast.tobytes()


def _elements(raw: Raw) -> list[Any]:
    if raw.datatype != "BYTES":
        return list(np.frombuffer(raw.data, DTYPES[raw.datatype]).tolist())
    return [element if isinstance(element, bytes) else str(element).encode() for element in json_elements(raw)]


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(one, choice) for name, one in given.items() if (choice := one.WhichOneof("parameter_choice"))}


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3
