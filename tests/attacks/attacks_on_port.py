"""Web pages, and programs that mean harm, at the device's own port. What is refused there is a status of HTTP."""

import gzip
import json
import socket
from contextlib import ExitStack
from http.client import HTTPResponse

import httpx

from schemas.errors import Code
from tests.attacks.catalogue import attack
from tests.attacks.node_scene import MODEL, NodeScene
from tests.attacks.processes import until

INFER = f"/v2/models/{MODEL}/infer"
ROW = {"name": "X", "datatype": "FP32", "shape": [1, 5], "data": [1, 2, 3, 4, 5]}
STATUS = {400: Code.REQUEST_INVALID, 403: Code.REQUEST_FOREIGN, 413: Code.SCHEMA_TOO_LARGE, 415: Code.REQUEST_CONTENT_TYPE}
Codes = list[str]


def named(status: int) -> Codes:
    return [str(STATUS.get(status, status))]


def asks(scene: NodeScene, *, content: bytes | None = None, **headers: str) -> Codes:
    body = content if content is not None else json.dumps({"inputs": [ROW]}).encode()
    fields = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return named(httpx.post(f"http://127.0.0.1:{scene.port}{INFER}", content=body, headers=fields).status_code)


def sends(scene: NodeScene, raw: bytes) -> Codes:
    """The first answer to these bytes."""
    with socket.create_connection(("127.0.0.1", scene.port), timeout=60) as connection:
        connection.sendall(raw)
        answer = HTTPResponse(connection)
        answer.begin()
        return named(answer.status)


@attack("port", Code.REQUEST_FOREIGN)
def rebound_name(scene: NodeScene) -> Codes:
    """A page whose own name was made to lead to this device (DNS rebinding)."""
    return asks(scene, host="rebound.example")


@attack("port", Code.REQUEST_FOREIGN)
def rebound_name_reads_metrics(scene: NodeScene) -> Codes:
    """The same page at /metrics."""
    return named(httpx.get(f"http://127.0.0.1:{scene.port}/metrics", headers={"host": "rebound.example"}).status_code)


@attack("port", Code.REQUEST_FOREIGN)
def page_of_another_site(scene: NodeScene) -> Codes:
    """A page of another site that asks a model."""
    return asks(scene, origin="https://evil.example")


@attack("port", Code.REQUEST_FOREIGN)
def page_that_hides_its_origin(scene: NodeScene) -> Codes:
    """A request of another site without an `Origin`."""
    return asks(scene, sec_fetch_site="cross-site")


@attack("port", Code.REQUEST_CONTENT_TYPE)
def form_of_another_site(scene: NodeScene) -> Codes:
    """A body that a form can send without asking first."""
    return asks(scene, content_type="text/plain")


@attack("port", Code.REQUEST_INVALID)
def two_hosts(scene: NodeScene) -> Codes:
    """A request for this device, and for another one."""
    return sends(scene, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example\r\n\r\n")


@attack("port", Code.REQUEST_INVALID)
def no_host(scene: NodeScene) -> Codes:
    """A request for no host."""
    return sends(scene, b"GET /v2 HTTP/1.1\r\n\r\n")


@attack("port", Code.REQUEST_FOREIGN)
def host_in_the_target(scene: NodeScene) -> Codes:
    """A rebound name in the target, and ours in the field."""
    return sends(scene, b"GET http://rebound.example/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")


@attack("port", Code.REQUEST_INVALID)
def smuggled_request(scene: NodeScene) -> Codes:
    """A length and chunks: two ends of one body."""
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return sends(scene, head + b"0\r\n\r\nGET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")


@attack("port", Code.REQUEST_INVALID)
def two_lengths(scene: NodeScene) -> Codes:
    """Two lengths of one body."""
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\n".encode()
    return sends(scene, head + b"{}{}")


@attack("port", Code.REQUEST_INVALID)
def chunk_of_no_length(scene: NodeScene) -> Codes:
    """A chunk whose length is a word."""
    return sends(scene, f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nall\r\n".encode())


@attack("port", "431")
def endless_head(scene: NodeScene) -> Codes:
    """A head of a megabyte."""
    with socket.create_connection(("127.0.0.1", scene.port), timeout=60) as connection:
        try:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2**20)
        except OSError:
            return ["431"]
        answer = HTTPResponse(connection)
        answer.begin()
        return named(answer.status)


@attack("port", Code.SCHEMA_TOO_LARGE)
def body_of_a_gigabyte(scene: NodeScene) -> Codes:
    """A body that is declared as a gigabyte."""
    return sends(scene, f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**30}\r\n\r\n".encode())


@attack("port", Code.SCHEMA_TOO_LARGE)
def gzip_bomb(scene: NodeScene) -> Codes:
    """A hundred kilobytes that expand to 100 MiB."""
    return asks(scene, content=gzip.compress(bytes(100 * 2**20)), content_encoding="gzip")


@attack("port", Code.REQUEST_INVALID)
def deeply_nested_request(scene: NodeScene) -> Codes:
    """JSON of 100,000 levels."""
    return asks(scene, content=b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@attack("port", Code.REQUEST_INVALID)
def huge_number_in_a_request(scene: NodeScene) -> Codes:
    """A number of 100,000 digits."""
    return asks(scene, content=json.dumps({"inputs": [{**ROW, "data": [0, 0, 0, 0, 7]}]}).replace("7", "7" * 100_000).encode())


@attack("port", Code.REQUEST_INVALID)
def shape_of_a_trillion(scene: NodeScene) -> Codes:
    """Rows that are declared and not there."""
    return asks(scene, content=json.dumps({"inputs": [{**ROW, "shape": [10**12, 5]}]}).encode())


@attack("port", Code.REQUEST_INVALID)
def numbers_that_are_none(scene: NodeScene) -> Codes:
    """NaN in JSON."""
    return asks(scene, content=json.dumps({"inputs": [{**ROW, "data": [float("nan")] * 5}]}).encode())


@attack("port", Code.REQUEST_INVALID)
def binary_rows_beyond_the_body(scene: NodeScene) -> Codes:
    """Binary rows that lie behind the end of the body."""
    header = json.dumps({"inputs": [{**{k: v for k, v in ROW.items() if k != "data"}, "parameters": {"binary_data_size": 20}}]}).encode()
    return asks(scene, content=header + b"x" * 4, inference_header_content_length=str(len(header)))


# Floods. What is closed to make room was never a request that is refused.


@attack("port", "closed")
def idle_connections(scene: NodeScene) -> Codes:
    """10,000 connections that ask nothing, at the usual limit of 1,024 descriptors."""
    with ExitStack() as stack:
        for _ in range(10_000):
            stack.enter_context(socket.create_connection(("127.0.0.1", scene.port), timeout=60))
        assert scene.served() is not None
        assert scene.descriptors() < 1024
    return ["closed"]


@attack("port", "closed")
def requests_that_drip(scene: NodeScene) -> Codes:
    """2,000 requests that never end their heads."""
    with ExitStack() as stack:
        for _ in range(2_000):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", scene.port), timeout=60))
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: loc")
        assert scene.served() is not None
    return ["closed"]


@attack("port", "closed")
def answers_that_nobody_reads(scene: NodeScene) -> Codes:
    """50 clients that ask again and again, and read nothing."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    before = scene.node.memory_mib
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", scene.port))
            connection.sendall(ask * 60)
        assert scene.served() is not None
        until("its memory", lambda: scene.node.memory_mib < before + 64)
    return ["closed"]
