"""A real S3 server on loopback for tests: moto's, which keeps what it is given in memory. No mocks: obstore speaks to it over HTTP."""

import contextlib
import logging
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count

import pytest

from bench.roads import Road
from tests.brokers import free_port

ACCESS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1"}
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket of the server, at the end of a road that a test may break."""

    name: str
    road: Road
    server_port: int

    @property
    def url(self) -> str:
        return f"s3://{self.name}/releases"

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.road.port}"

    @property
    def settings(self) -> dict[str, str]:
        """What a hub is told of it."""
        return {"blocks_url": self.url, "blocks_endpoint_url": self.endpoint_url}

    def go(self) -> None:
        """Be away, as though the server were switched off: connections end, and new ones, too."""
        self.road.broker_port = 1
        self.road.cut()

    def come_back(self) -> None:
        """Answer again."""
        self.road.broker_port = self.server_port

    def write(self, key: str, data: bytes) -> None:
        """Put an object there, as somebody else does."""
        import obstore
        from obstore.store import S3Store

        endpoint = f"http://127.0.0.1:{self.server_port}"
        obstore.put(S3Store(self.name, endpoint=endpoint, client_options={"allow_http": True}), key, data, use_multipart=False)


@cache
def _server_port() -> int:
    """Where this process's server is."""
    from moto.server import ThreadedMotoServer  # a second of imports, which few tests need

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    port = free_port()
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    return port


@contextlib.contextmanager
def bucket(patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A new bucket, and credentials for it in the environment."""
    for name, value in ACCESS.items():
        patch.setenv(name, value)
    port, name = _server_port(), f"bucket-{next(_numbers)}"
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT"), timeout=60) as answer:
        assert answer.status == 200
    found = Bucket(name, Road(port), port)
    yield found
    found.road.close()
