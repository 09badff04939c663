"""Decoders of what other machines answer a hub and its clients, and of files that operators and key holders hand over."""

import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from hub.client.connection import Connection
from hub.client.events import follow
from hub.client.place import HubPlace
from hub.publish import object_store
from hub.publish.object_store import ObjectStore
from hub.signing import key_offers, key_references, keys
from hub.signing.signed_roles import check_role
from schemas.errors import FleetcastError, Unreachable
from schemas.limits import PAYLOAD_BYTES_MAX
from schemas.names import sha256
from simulation import fleet_file
from simulation.example import EXAMPLE
from tests.fuzz.files import TOML_TOKENS, file_with
from tests.fuzz.fleet import LATER, fleet, signed
from tests.fuzz.mutations import Json, Raw, Text
from tests.fuzz.target import Target

# Answers over HTTP, as they come out of a socket: the real clients read them.

DATA = b"payload" * 9
SECONDS = 1.0  # A store of which the rest does not come: the server has closed by then.


class _Server:
    """Answer every request with the same bytes, and hang up."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            with near:
                near.settimeout(SECONDS)
                try:
                    self._read(near)
                    near.sendall(self.answer)
                    near.shutdown(socket.SHUT_WR)
                    near.recv(65536)
                except OSError:
                    continue

    def _read(self, near: socket.socket) -> None:
        """Read a request whole: one that is left unread resets the connection before the answer is read."""
        data = b""
        while b"\r\n\r\n" not in data and (part := near.recv(65536)):
            data += part
        if b"expect: 100-continue" in data.lower():
            return
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"0")
        while len(body) < int(length) and (part := near.recv(65536)):
            body += part


@cache
def _server() -> _Server:
    return _Server()


@cache
def _objects() -> ObjectStore:
    os.environ.update(AWS_ACCESS_KEY_ID="fuzz", AWS_SECRET_ACCESS_KEY="fuzz", AWS_REGION="us-east-1")
    object_store.RETRIES_MAX, object_store.TIMEOUT_SECONDS, object_store.STALL_SECONDS = 0, SECONDS, SECONDS  # type: ignore[misc]
    return ObjectStore("s3://bucket", "main", endpoint_url=f"http://127.0.0.1:{_server().port}")


def _object(data: bytes) -> None:
    """The first byte chooses what is asked for."""
    objects = _objects()
    _server().answer = data[1:]
    match data[0] % 6 if data else 0:
        case 0:
            assert objects.read(sha256(DATA)) == DATA
        case 1:
            objects.has(sha256(DATA))
        case 2:
            assert all(len(one) == 32 for one in objects.digests())
        case 3:
            objects.check()
        case 4:
            objects.put(sha256(DATA), DATA)
        case _:
            objects.remove(sha256(DATA))


def _http(status: str, body: bytes = b"", **headers: object) -> bytes:
    more = {"content-length": len(body), "connection": "close", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in more.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _object_seeds() -> list[bytes]:
    when = {"last_modified": "Mon, 30 Nov 2026 07:00:00 GMT", "etag": '"abc"'}
    name = sha256(DATA).hex()
    listed = (
        f"<Contents><Key>main/blocks/{name[:2]}/{name}</Key><Size>63</Size><LastModified>2026-11-30T07:00:00.000Z</LastModified></Contents>"
    )
    page = (
        f"<ListBucketResult><Name>bucket</Name><KeyCount>1</KeyCount>{listed}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
    )
    missing = b"<Error><Code>NoSuchBucket</Code><Message>no</Message></Error>"
    good = _http("200 OK", DATA, **when)
    return [
        b"\0" + good,
        b"\0" + _http("200 OK", DATA[:9], **{**when, "content_length": len(DATA)}),
        b"\0" + _http("200 OK", DATA, **{**when, "content_length": PAYLOAD_BYTES_MAX + 1}),
        b"\0" + _http("200 OK", b"5\r\nhello\r\n0\r\n\r\n", **{**when, "content_length": None, "transfer_encoding": "chunked"}),
        b"\1" + _http("200 OK", **{**when, "content_length": 63}),
        b"\1" + _http("404 Not Found", missing),
        b"\2" + _http("200 OK", page, content_type="application/xml"),
        b"\3" + _http("403 Forbidden", b"<Error><Code>AccessDenied</Code></Error>"),
        b"\4" + _http("200 OK", etag='"abc"'),
        b"\4" + _http("503 Slow Down", b"<Error><Code>SlowDown</Code></Error>"),
        b"\5" + _http("204 No Content"),
        b"\5" + _http("301 Moved", location="http://127.0.0.1:1/"),
    ]


@cache
def _connection() -> Connection:
    return Connection(HubPlace(f"http://127.0.0.1:{_server().port}", "t"), sleep=lambda _: None)


def _hub_answer(data: bytes) -> None:
    """The first byte chooses what is asked for."""
    _server().answer = data[1:]
    match data[0] % 3 if data else 0:
        case 0:
            _connection().request("GET", "/status", is_repeatable=False)
        case 1:
            assert isinstance(_connection().request("GET", "/payloads/ab", is_repeatable=False, is_binary=True).status, int)
        case _:
            for event in islice(follow(_connection(), failures_max=0, sleep=_enough), 20):
                assert isinstance(event.text, str)


def _enough(_seconds: float) -> None:
    raise Unreachable("the stream has ended")


def _hub_seeds() -> list[bytes]:
    problem = json.dumps({"type": "x", "code": "request.invalid", "detail": "no", "errors": [{"where": "a", "reason": "b"}]}).encode()
    event = json.dumps({"id": 3, "at": "2026-11-30T07:00:00Z", "kind": "alert", "text": "x", "actor": "a", "facts": {"a": 1}}).encode()
    stream = {"content_type": "text/event-stream", "content_length": None}
    return [
        b"\0" + _http("200 OK", b'{"fleet": "plant"}', content_type="application/json", etag='"1"'),
        b"\0" + _http("422 No", problem, content_type="application/problem+json"),
        b"\0" + _http("429 Busy", b"", retry_after="3"),
        b"\0" + _http("302 Found", location="http://127.0.0.1:1/"),
        b"\1" + _http("200 OK", DATA, content_type="application/octet-stream"),
        b"\2" + _http("200 OK", b"id: 2\n\n: beat\n\nid: 3\nevent: alert\ndata: " + event + b"\n\n", **stream),
    ]


# Files


def _offer(data: bytes) -> None:
    offer = key_offers.read(file_with("offer.json", data))
    for told in (offer.changes, offer.in_words, offer.missing, offer.expires, offer.digest):
        told()
    offer.check_from(fleet().repository.root())
    again = file_with("again.json", b"")
    key_offers.write(again, offer)
    assert key_offers.read(again).digest() == offer.digest()


def _offer_seeds() -> list[bytes]:
    found, keys_of = fleet(), fleet().keys
    changes: list[dict[str, Any]] = [
        {"top": {"targets": keys_of["targets"].public_key, "timestamp": keys_of["team"].public_key}},
        {"rollouts": keys_of["team"].public_key},
    ]
    seeds = []
    for change in changes:
        offer = found.draft(**change)
        offer.sign(found.roots[0] if offer.root is not None else keys_of["targets"])
        path = Path(tempfile.mkdtemp(prefix="fuzz-offer-")) / "offer.json"
        key_offers.write(path, offer)
        seeds.append(json.dumps(json.loads(path.read_bytes())).encode())
    return seeds


def _role(data: bytes) -> None:
    """A role that a publisher has signed on another machine, with the team's own key."""
    targets = fleet().repository._folder.newest_bytes("targets")
    expected = fleet().repository._role_draft("delay")
    for role in (data, signed(data, [fleet().keys["team"]])):
        _or_refused(lambda role=role: check_role(role, role="model-delay", version=1, expected=expected, targets=targets, now=LATER))


def _or_refused(do: Callable[[], object]) -> None:
    try:
        do()
    except FleetcastError:
        return


def _role_seeds() -> list[bytes]:
    from schemas.bundle import role_name

    return [fleet().repository._folder.newest_bytes(role_name("delay"))]


def _reference(data: bytes) -> None:
    uri, key = key_references.parse(file_with("targets.uri", data), data)
    assert key_references.is_uri(uri)
    assert key.keyid


def _reference_seeds() -> list[bytes]:
    pem = keys.public_pem(fleet().keys["team"].public_key)
    return [scheme.encode() + b":2?label=fleet\n" + pem for scheme in key_references.SCHEMES]


def _public_key(data: bytes) -> None:
    keys.public_key(file_with("team.pub", data))


def _simulated(data: bytes) -> None:
    file = fleet_file.read(file_with("simulated.toml", data))
    table = file.table()
    fleet_file.plan_of(file, table, fleet_file.sizes_of(table.release), nodes=100)


FILES = (FleetcastError,)
SIMULATION_TOKENS = (
    *TOML_TOKENS,
    "nodes",
    "share",
    "link",
    "[[groups]]",
    "[links.a]",
    "hours",
    "stages",
    "days_max",
    "Mon-Fri 22:00-05:00",
    "1e9",
)
HTTP_TOKENS = (
    *(
        "\r\n",
        "\n",
        ": ",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 ",
        "content-length: ",
        "transfer-encoding: chunked\r\n",
        "content-encoding: gzip\r\n",
    ),
    *(
        "-1",
        "0",
        "9" * 19,
        "ffffffffffffffff\r\n",
        "last-modified: x\r\n",
        "etag: \r\n",
        "content-range: bytes 0-1/2\r\n",
        "x-amz-version-id: \xff\r\n",
    ),
    *(
        "<Key>",
        "</Key>",
        "<Size>",
        "<Contents>",
        "<IsTruncated>true</IsTruncated>",
        "<NextContinuationToken>a</NextContinuationToken>",
        "&#0;",
    ),
    *("data: ", "id: ", "retry: 0\n", "\n\n", "{", "}", "[", '"', "null", "NaN", "1e999", "\\ud800", '"code": "', "\0", "é"),
)
TARGETS = (
    Target(
        "object_answers",
        _object,
        _object_seeds,
        Text(HTTP_TOKENS, prefix=1),
        FILES,
        160 * 1024,
        _objects,
        ("hub.publish.object_store", "schemas.errors"),
    ),
    Target("hub_answers", _hub_answer, _hub_seeds, Text(HTTP_TOKENS, prefix=1), FILES),
    Target("key_offers", _offer, _offer_seeds, Json(), FILES),
    Target("team_roles", _role, _role_seeds, Json(), FILES),
    Target("key_references", _reference, _reference_seeds, Raw(), FILES),
    Target("public_keys", _public_key, lambda: [keys.public_pem(fleet().keys["team"].public_key)], Raw(), FILES),
    Target("simulation_fleets", _simulated, lambda: [EXAMPLE.encode()], Text(SIMULATION_TOKENS), FILES),
)
