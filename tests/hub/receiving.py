"""A real HTTP server that receives webhooks, and behaves as badly as it is told."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRET = b"thirty-two bytes that nobody sees"
HANG_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Got:
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def genuine(self) -> bool:
        """As a receiver checks it, without a line of ours."""
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
        return f"v1,{expected}" in self.headers["webhook-signature"].split(" ")


@dataclass(slots=True)
class Receiver:
    """What came, and what is answered: `answer` gives a status, or a URL to redirect to, or "hang"."""

    answer: Callable[[Got], int | str] = lambda got: 204
    got: list[Got] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def secret_file(self, directory: Path) -> str:
        path = directory / "webhook.secret"
        path.write_bytes(SECRET + b"\n")
        return str(path)


@contextmanager
def receiving(answer: Callable[[Got], int | str] = lambda got: 204) -> Iterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            got = Got({name.lower(): value for name, value in self.headers.items()}, body)
            receiver.got.append(got)
            said = receiver.answer(got)
            if said == "hang":
                receiver.released.wait(HANG_SECONDS)
                return
            self.send_response(307 if isinstance(said, str) else said)
            if isinstance(said, str):
                self.send_header("location", said)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
