"""Decoders of what a node is sent at its own door, and of the files that releases and workers bring."""

import asyncio
import functools
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from fleetcast.joining.row_independence import why_not
from fleetcast.litert_file import NoModel, variable_operators
from node.core.activation import golden
from node.core.inference import frames, oip
from node.core.inference.chat_request import check_bounds, parse_chat
from node.core.inference.tensors import Raw as RawTensor
from node.core.inference.tensors import Spec
from node.core.telemetry import accuracy
from node.host.site_parameters import Overrides
from node.serving.bodies import decompressed
from node.serving.connection import Connection
from node.serving.cross_site_check import Foreign
from node.serving.grpc_messages import message_classes
from node.serving.grpc_server import as_body
from node.settings import load
from schemas.errors import Refused
from schemas.parameters import Parameter
from tests.fuzz.files import TOML_TOKENS, file_with
from tests.fuzz.models import golden_files, onnx_file, tflite_file
from tests.fuzz.mutations import Json, Raw, Text
from tests.fuzz.target import Target

ROWS, IDS, WORDS = Spec("x", "FP32", (-1, 5)), Spec("id", "INT64", (-1,)), Spec("text", "BYTES", (-1,))
FLAGS, OUT = Spec("flag", "BOOL", (2,)), Spec("y", "FP32", (-1, 1))
SIGNATURES = ((ROWS,), (ROWS, IDS), (WORDS,), (FLAGS, IDS))
PARAMETERS = (Parameter(name="max_tokens", goes_to="runtime", default=16, min=1, max=64),)


# Requests


def _infer(data: bytes) -> None:
    """The first four bytes: where the JSON ends, or zeros."""
    header_bytes = int.from_bytes(data[:4], "little") or None
    for inputs in SIGNATURES:
        one = _request(lambda inputs=inputs: oip.parse_request(data[4:], header_bytes=header_bytes, inputs=inputs, outputs=(OUT,)))
        reader = oip.Requests(inputs, (OUT,))
        for _ in range(2):  # The second time what was kept of the first is used.
            assert _request(lambda reader=reader: reader.read(data[4:], header_bytes=header_bytes)) == one, "kept and parsed differ"


def _request(read: Callable[[], oip.Request]) -> object:
    try:
        found = read()
    except Refused as refusal:
        return refusal.code, refusal.reason
    encoded, _ = oip.encode_response(found, model="m", version="1", answers=[RawTensor("y", "FP32", (1, 1), bytes(4))])
    assert encoded
    return found.id, found.outputs, found.event_time, [(one.name, one.datatype, one.shape, bytes(one.data)) for one in found.inputs]


def _infer_seeds() -> list[bytes]:
    rows = {"name": "x", "datatype": "FP32", "shape": [1, 5]}
    ids = {"name": "id", "datatype": "INT64", "shape": [1], "data": [7]}
    words = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hi"]}
    bodies = [
        {"id": "a", "inputs": [{**rows, "data": [1, 2.5, 3, 4, 5]}], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {"inputs": [{**rows, "data": [[1, 2, 3, 4, 5]]}, ids], "parameters": {"event_time": 1.5}},
        {"inputs": [words]},
        {"inputs": [{"name": "flag", "datatype": "BOOL", "shape": [2], "data": [True, False]}, ids]},
    ]
    binary = [
        ({"inputs": [{**rows, "parameters": {"binary_data_size": 20}}], "parameters": {"binary_data_output": True}}, bytes(20)),
        ({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}]}, b"\2\0\0\0hi"),
    ]
    found = [bytes(4) + json.dumps(body).encode() for body in bodies]
    for body, tensors in binary:
        head = json.dumps(body).encode()
        found.append(len(head).to_bytes(4, "little") + head + tensors)
    return found


def _grpc(data: bytes) -> None:
    request = _messages()["ModelInferRequest"].FromString(data)
    body, header_bytes = as_body(request)
    for inputs in SIGNATURES:
        _request(lambda inputs=inputs: oip.parse_request(body, header_bytes=header_bytes, inputs=inputs, outputs=(OUT,)))


@functools.cache
def _messages() -> dict[str, Any]:
    return message_classes()


def _grpc_seeds() -> list[bytes]:
    new = _messages()["ModelInferRequest"]
    typed = new(model_name="delay", id="a")
    tensor = typed.inputs.add(name="x", datatype="FP32", shape=[1, 5])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4, 5])
    typed.inputs.add(name="id", datatype="INT64", shape=[1]).contents.int64_contents.append(7)
    typed.parameters["event_time"].double_param = 1.5
    raw = new(model_name="delay", raw_input_contents=[b"\2\0\0\0hi"])
    raw.inputs.add(name="text", datatype="BYTES", shape=[1])
    raw.outputs.add(name="y")
    small = new(model_name="delay")
    small.inputs.add(name="x", datatype="INT8", shape=[1]).contents.int_contents.append(300)
    return [one.SerializeToString() for one in (typed, raw, small)]


def _protobuf_error() -> type[Exception]:
    from google.protobuf.message import DecodeError

    return DecodeError


def _chat(data: bytes) -> None:
    found = parse_chat(data)
    check_bounds(found, PARAMETERS, "m@1")
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


def _chat_seeds() -> list[bytes]:
    says = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 4, "pattern": "[a-z]+"}}}
    return [
        json.dumps({"model": "m", "messages": says, "max_tokens": 4, "stop": ["."], "temperature": 0.5, "stream": True}).encode(),
        json.dumps({"model": "m", "messages": says, "n": 1, "tools": [], "user": "u", "stream_options": {"include_usage": True}}).encode(),
        json.dumps(
            {"model": "m", "messages": says, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
        ).encode(),
    ]


def _labels(data: bytes) -> None:
    accuracy.parse(data)


def _gzip(data: bytes) -> None:
    assert len(decompressed(data)) <= oip.BODY_BYTES_MAX


# HTTP, as it comes on a connection


class _Transport(asyncio.Transport):
    """Takes what is written, and stays open until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self._closing = bytearray(), False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 8080), "peername": ("127.0.0.1", 50000)}.get(name, default)

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def close(self) -> None:
        self._closing = True

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        """Nothing more comes anyway."""

    resume_reading = pause_reading


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _http(data: bytes) -> None:
    """The first byte: in how many pieces the rest arrives. Whatever the callbacks raise is a fault."""
    foreign, faults = Foreign(host="127.0.0.1"), list[BaseException]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            foreign.check(scope)
        except Refused:
            await PlainTextResponse("refused", 403)(scope, receive, send)
            return
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass
        await PlainTextResponse("ok")(scope, receive, send)

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context.get("exception") or RuntimeError(context["message"])))
        state = ServerState()
        protocol = Connection(uvicorn.Config(app, ws="none", log_config=None, lifespan="off"), state, {})
        protocol.connection_made(_Transport())
        size = max(1, -(-(len(data) - 1) // (1 + data[0] % 7))) if data else 1
        for at in range(1, len(data), size):
            if not protocol.transport.is_closing():
                protocol.data_received(data[at : at + size])
            await asyncio.sleep(0)
        for _ in range(4):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.gather(*state.tasks)

    _loop().run_until_complete(talk())
    if faults:
        raise faults[0]


def _http_seeds() -> list[bytes]:
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\n"
    requests = [
        b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2,
        head + b"Content-Length: 2\r\n\r\n{}" * 2,
        head + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
        head + b"Expect: 100-continue\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nOrigin: http://x\r\n\r\n",
    ]
    return [bytes([pieces]) + one for one in requests for pieces in (0, 3)]


HTTP_TOKENS = (
    *(
        "\r\n",
        "\r\n\r\n",
        ":",
        " ",
        "HTTP/1.1",
        "HTTP/1.0",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        "%00",
        "%",
    ),
    *(
        "Upgrade: websocket\r\n",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Host: [::1]:99999\r\n",
        "Origin: null\r\n",
        "\0",
        "é",
    ),
)


# What workers and releases bring


def _frames(data: bytes) -> None:
    for pieces in (1, 3):
        assembler = frames.Assembler()
        size = max(1, -(-len(data) // pieces))
        for at in range(0, len(data), size):
            for frame in assembler.feed(data[at : at + size]):
                assert all(isinstance(one.name, str) or one.name is not None for one in frame.tensors)


def _frame_seeds() -> list[bytes]:
    rows = RawTensor("x", "FP32", (1, 5), bytes(20))
    return [b"".join(frames.encode(7, "run", fields, tensors)) for fields in ({}, {"a": 1}) for tensors in ((), (rows, rows))]


def _golden(data: bytes) -> None:
    for known in (True, False):
        case = golden.parse(data, known=known)
        for specs in ((ROWS,), (WORDS,), (Spec("prompt", "BYTES", (1,)),)):
            try:
                golden.questions(case, specs)
            except Refused:
                continue


def _joining(data: bytes) -> None:
    found = why_not(memoryview(data))
    assert found is None or found


def _tflite(data: bytes) -> None:
    with memoryview(data) as view:
        variable_operators(view)


# Settings


def _settings(data: bytes) -> None:
    load(file_with("node.toml", data))


def _parameters(data: bytes) -> None:
    Overrides(file_with("parameters.toml", data)).look(1e9)  # type: ignore[arg-type]


NODE_TOML = b"""id = "gate-17"
fleet = "main"
broker = "mqtt://localhost:1883"
data = "data"
root = "root.json"
port = 0
labels = { site = "jfk" }
allowed_hosts = ["gateway"]
"""
SITE_TOML = b'[delay]\nthreshold = 0.7\nlabels = { cat = "Katze" }\n'
JSON_TOKENS = ("{", "}", "[", "]", ",", ":", "null", "NaN", "Infinity", "1e400", "-0", '"\\ud800"', '"', "true", "[" * 9, "1.0", "\\u0000")
TARGETS = (
    Target("inference_requests", _infer, _infer_seeds, Json(prefix=4)),
    Target("grpc_requests", _grpc, _grpc_seeds, Raw(), (Refused, _protobuf_error())),
    Target("chat_requests", _chat, _chat_seeds, Json()),
    Target(
        "label_counts",
        _labels,
        lambda: [b'{"at": "2026-03-02T12:00:00Z", "right": 3, "wrong": 1, "id": "a"}', b'{"at": 1772409600, "right": 3, "wrong": 0}'],
        Json(),
    ),
    Target(
        "compressed_bodies", _gzip, lambda: [gzip.compress(b"{}" * 99, mtime=0), zlib.compress(b"[]"), zlib.compress(bytes(1 << 20))], Raw()
    ),
    Target("http_connections", _http, _http_seeds, Text(HTTP_TOKENS, prefix=1), ()),
    Target("worker_frames", _frames, _frame_seeds, Raw(), (frames.Malformed,)),
    Target("golden_files", _golden, golden_files, Raw()),
    Target("onnx_graphs", _joining, lambda: [onnx_file()], Raw(), ()),
    Target("tflite_files", _tflite, lambda: [tflite_file()], Raw(), (NoModel,)),
    Target("node_settings", _settings, lambda: [NODE_TOML], Text(TOML_TOKENS)),
    Target("site_parameters", _parameters, lambda: [SITE_TOML], Text(TOML_TOKENS)),
)
