"""A fleet with releases and nodes, a token of each role, and its API: in this process, or served by a hub."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hub.database.rows import NodeRow
from hub.database.store import Store
from hub.operations import api_tokens
from hub.operations.opened_fleet import OpenedFleet
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.state import Profile, State
from tests.databases import url_of
from tests.hub.cli import fleets
from tests.hub.cli.fleets import Made, make
from tests.hub.cli.test_rollout import Hub

API = "/api/v1"


@dataclass
class Asked:
    """An API, and the tokens of four people."""

    made: Made
    fleet: OpenedFleet
    tokens: dict[str, str]
    client: Any = None
    server: Any = None

    def ask(self, method: str, path: str, role: str | None = "admin", **more: Any) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {self.tokens[role]}"} if role else {}), **more.pop("headers", {})}
        return self.client.request(method, f"{API}{path}", headers=headers, **more)

    def get(self, path: str, role: str | None = "viewer", **more: Any) -> Any:
        answer = self.ask("GET", path, role, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()


def opened(made: Made) -> OpenedFleet:
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.create()
    return OpenedFleet(made.fleet, load(made.fleet), store, Repository(made.fleet / "trust"))


def make_asked(folder: Path, *, nodes: int = 6) -> Asked:
    """A fleet with two releases and some nodes, of which nothing was rolled out."""
    folder.mkdir(parents=True, exist_ok=True)
    made = make(folder, "m")
    for number in range(2):
        made.publish_as(f"1.{number}.0", made.folder / "good.onnx")
    fleet = opened(made)
    rows = []
    for number in range(nodes):
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"site": "jfk" if number < 2 else "lga"})
        state = State(node=f"n{number}", session=1, status="online", at=int(time.time()), profile=profile)
        rows.append(NodeRow(state.node, 1, "online", state.at, codec.encode(state), b"", "default"))
    fleet.store.upsert_nodes(rows)
    tokens = {role: api_tokens.make(fleet, name=role, role=role, days=1)[1] for role in api_tokens.ROLES}
    return Asked(made, fleet, tokens)


def copied(asked: Asked, folder: Path) -> Asked:
    """The same fleet in another folder, for a test that changes it."""
    asked.fleet.store.close()
    made = fleets.copied(asked.made, folder)
    return Asked(made, opened(made), dict(asked.tokens))


@contextmanager
def served(asked: Asked) -> Iterator[Asked]:
    """The API, served by a hub of its own."""
    with Hub(asked.made) as hub, httpx.Client(base_url=hub.ready["web_url"]) as client:
        asked.client = client
        yield asked
