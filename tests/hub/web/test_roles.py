"""Every route of the API against every role: the table decides, and nothing else does."""

import json

import pytest

from hub.operations.api_tokens import ROLES
from hub.web.application import described
from hub.web.roles import GRANTS, ROUTES, may
from tests.hub.web.fleets import API, Asked

BODIES = {
    ("POST", "/rollouts"): {"model": "m", "version": "1.0.0"},
    ("PUT", "/models/{model}/deployments/{deployment}"): {"where": "site=jfk", "release": "1.0.0"},
    ("PATCH", "/rollouts/{model}/{deployment}/parameters"): {"unset": ["a"]},
    ("PATCH", "/nodes/{node}/settings"): {"labels": {"ring": "canary"}},
    ("POST", "/node-settings"): {"where": "site=jfk", "labels": {"ring": "canary"}},
    ("POST", "/node-settings/effect"): {"where": "site=jfk", "labels": {"ring": "canary"}},
    ("POST", "/plan"): {"model": "m", "version": "1.0.0"},
    ("POST", "/publications"): {"model": "m", "version": "9.0.0", "manifest": "AAAA"},
    ("POST", "/drift/explanation"): {"model": "m"},
    ("POST", "/nodes/{node}/replacement"): {"hours": 1},
    ("POST", "/enrolment-tokens"): {"node": "n9"},
    ("POST", "/tokens"): {"name": "another", "role": "viewer"},
}
NAMES = {
    "model": "m",
    "deployment": "default",
    "version": "1.0.0",
    "node": "n0",
    "operation": "1",
    "token": "00000000",
    "publication": "0" * 32,
    "payload": "0" * 64,
    "revision": "1",
    "application": "0" * 16,
}
HAS_NO_WAIT = {
    *("/tokens", "/tokens/{token}", "/nodes/{node}", "/nodes/{node}/replacement", "/enrolment-tokens"),
    *("/drift/explanation", "/blueprint/diff"),
}


def path_of(template: str) -> str:
    return template.format(**NAMES)


def test_the_table_lists_every_route_and_no_other() -> None:
    there = {(method.upper(), path.removeprefix(API)) for path, methods in described()["paths"].items() for method in methods}

    assert there == set(ROUTES)


@pytest.mark.parametrize("role", [*ROLES, None])
def test_each_route_lets_in_the_roles_of_the_table_alone(here: Asked, role: str | None) -> None:
    wrong = []
    for (method, template), right in ROUTES.items():
        if template == "/events/stream" and role is not None:
            continue  # It does not end: tests/hub/web/test_event_stream.py.
        more = {"json": BODIES[method, template]} if (method, template) in BODIES else {}
        wait = "?wait=0" if method != "GET" and template not in HAS_NO_WAIT else ""
        answer = here.ask(method, path_of(template) + wait, role, **more)
        expected = right == "anybody" or (role is not None and may(role, right))
        is_let_in = answer.status_code not in {401, 403}
        if is_let_in != expected or answer.status_code >= 500 or (not expected and answer.status_code != (403 if role else 401)):
            wrong.append((method, template, role, answer.status_code, answer.text))
    assert wrong == []


def test_a_wrong_token_and_a_wrong_role_learn_nothing_of_what_there_is(here: Asked) -> None:
    there = here.ask("DELETE", "/nodes/n0", "viewer")
    nowhere = here.ask("DELETE", "/nodes/n99", "viewer")
    malformed = here.ask("POST", "/rollouts", "viewer", content=b"{", headers={"content-type": "application/json"})

    assert [one.status_code for one in (there, nowhere, malformed)] == [403, 403, 403]
    assert there.json()["detail"] == nowhere.json()["detail"] == "this needs the role admin, and the token 'viewer' has the role viewer"
    assert there.headers["content-type"] == "application/problem+json"
    assert json.loads(there.text)["code"] == "request.role"


def test_a_publisher_moves_no_node_and_an_operator_publishes_nothing() -> None:
    assert "operator" not in GRANTS["publisher"]
    assert "publisher" not in GRANTS["operator"]
