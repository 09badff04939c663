"""Fleets that tests of the API share: one that is only read, and one with a hub that obeys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hub.web.application import application
from hub.web.guard import LOOPBACK_NAMES, Door
from tests.hub.web.fleets import Asked, copied, make_asked, served


@pytest.fixture(scope="session")
def unused(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A fleet of which nothing was rolled out."""
    return make_asked(tmp_path_factory.mktemp("api") / "made")


@pytest.fixture
def door(unused: Asked, tmp_path: Path) -> Door:
    """What requests are let in by, on a copy of that fleet."""
    return Door(copied(unused, tmp_path / "made").fleet, LOOPBACK_NAMES)


@pytest.fixture
def here(unused: Asked, door: Door) -> Iterator[Asked]:
    """The API in this process; no hub obeys."""
    with TestClient(application(door), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield Asked(unused.made, door.fleet, dict(unused.tokens), client)


@pytest.fixture(scope="module")
def running(unused: Asked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """The API of a hub that runs."""
    with served(copied(unused, tmp_path_factory.mktemp("running") / "made")) as asked:
        yield asked
