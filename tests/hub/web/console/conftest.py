"""People who are signed in to a console in this process."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from hub.web.application import application
from hub.web.guard import Door
from tests.hub.web.conftest import door, unused  # noqa: F401  # fixtures
from tests.hub.web.console.people import Person
from tests.hub.web.fleets import Asked


@pytest.fixture
def sign_in(unused: Asked, door: Door) -> Iterator[Callable[[str], Person]]:  # noqa: F811
    """Sign in by a token of a role."""
    app, clients = application(door), list[TestClient]()

    def signed_in(role: str) -> Person:
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)
        client.__enter__()
        clients.append(client)
        return Person.signed_in(client, unused.tokens[role])

    yield signed_in
    for client in clients:
        client.__exit__(None, None, None)
