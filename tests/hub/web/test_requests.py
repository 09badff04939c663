"""What comes to the API is bounded and checked before anything of it is used: hosts, tokens, bodies, cursors, queries."""

import json
import time

import pytest

from hub.database.api_rows import ApiTokens
from hub.operations import api_tokens
from hub.web.guard import BODY_BYTES_MAX, Door
from tests.hub.web.fleets import Asked

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "local host", "[::1", "8.8.8.8"]
)
def test_a_request_under_another_name_is_refused(here: Asked, host: str) -> None:
    answer = here.ask("GET", "/fleet", headers={"host": host})

    assert answer.status_code == 421
    assert answer.json()["code"] == "request.foreign"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8440", "127.0.0.1:1", "[::1]:8440"])
def test_loopback_is_reached_by_each_of_its_names(here: Asked, host: str) -> None:
    assert here.ask("GET", "/token", headers={"host": host}).status_code == 200


def test_answers_are_kept_by_nobody_and_shown_in_no_frame(here: Asked) -> None:
    for answer in (here.ask("GET", "/fleet"), here.ask("GET", "/nowhere"), here.ask("GET", "/fleet", None)):
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_token_that_expired_or_was_revoked_is_refused_like_an_unknown_one(here: Asked) -> None:
    row, text = api_tokens.make(here.fleet, name="short", role="viewer", days=1)
    revoked, revoked_text = api_tokens.make(here.fleet, name="gone", role="viewer", days=1)
    here.tokens |= {"short": text, "gone": revoked_text, "unknown": "fct_" + "a" * 43}
    before = [here.ask("GET", "/token", name).status_code for name in ("short", "gone")]
    assert here.ask("DELETE", f"/tokens/{revoked.id}").status_code == 200
    with here.fleet.store.database.write() as db:
        db.exec_driver_sql(f"UPDATE api_tokens SET expires_at = {int(time.time())} WHERE id = '{row.id}'")  # noqa: S608

    answers = [here.ask("GET", "/token", name) for name in ("short", "gone", "unknown")]

    assert before == [200, 200]
    assert [(one.status_code, one.json()["detail"]) for one in answers] == [(401, "the token is unknown, expired or revoked")] * 3
    assert all(one.headers["www-authenticate"].startswith("Bearer") for one in answers)


def test_what_is_kept_of_a_token_lets_nobody_in(here: Asked) -> None:
    made = here.ask("POST", "/tokens", json={"name": "ci", "role": "publisher", "days": 2})
    listed = here.ask("GET", "/tokens").json()["items"]
    (kept,) = [one for one in ApiTokens(here.fleet.store.database).all() if one.name == "ci"]
    text = made.json()["token"]

    assert made.status_code == 201
    assert text.startswith("fct_")
    assert [one["name"] for one in listed if one["role"] == "publisher"] == ["ci", "publisher"]
    assert text not in here.ask("GET", "/tokens").text
    assert kept.digest.hex() not in here.ask("GET", "/tokens").text
    here.tokens["digest"] = "fct_" + kept.digest.hex()
    assert here.ask("GET", "/token", "digest").status_code == 401
    assert [one["what"] for one in here.get("/audit?actor=token:admin")["items"]] == [
        f"token ci ({kept.id}) was made with the role publisher"
    ]


def test_an_address_that_guesses_is_slowed_and_keeps_out_no_good_token(here: Asked, door: Door) -> None:
    here.tokens["guess"] = "fct_guess"
    statuses = [here.ask("GET", "/token", "guess").status_code for _ in range(22)]
    late = here.ask("GET", "/token", "guess")

    assert statuses == [401] * 20 + [429] * 2
    assert late.status_code == 429
    assert 0 < int(late.headers["retry-after"]) <= 61
    assert here.ask("GET", "/token", "operator").status_code == 200  # Good, and never seen from here.
    assert here.ask("GET", "/token", None).status_code == 401
    assert door.failures.wait_seconds("testclient", door.monotonic()) > 0


def test_a_body_is_json_and_not_larger_than_is_allowed(here: Asked) -> None:
    form = here.ask("POST", "/tokens", content=b"name=a&role=admin", headers={"content-type": "application/x-www-form-urlencoded"})
    untyped = here.ask("POST", "/tokens", content=b"{}")
    large = here.ask("POST", "/tokens", content=b'{"name": "' + b"a" * BODY_BYTES_MAX + b'"}', headers=JSON)
    deep = here.ask("POST", "/tokens", content=b"[" * 100_000, headers=JSON)

    assert [one.status_code for one in (form, untyped, large)] == [415, 415, 413]
    assert large.headers["connection"] == "close"
    assert (deep.status_code, deep.json()["code"]) == (400, "request.invalid")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "role": "root"},
        {"name": "a", "role": "viewer", "admin": True},
        {"name": "a", "role": "viewer", "days": "7"},
        {"name": "a", "role": "viewer", "days": 1.5},
        {"name": "a\x1b[2J", "role": "viewer"},
        {"name": "a\ud800", "role": "viewer"},
        {"name": " a", "role": "viewer"},
        {"name": "<script>alert(1)</script>", "role": "viewer"},
        {"name": "=cmd()", "role": "viewer"},
        {"name": "../x", "role": "viewer"},
        {"name": "x y", "role": "viewer"},
        {"name": "-x", "role": "viewer"},
        {"name": "a" * 49, "role": "viewer"},
        [],
        None,
    ],
)
def test_a_token_that_cannot_be_is_refused_with_what_is_wrong(here: Asked, body: object) -> None:
    answer = here.ask("POST", "/tokens", content=json.dumps(body), headers=JSON)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["mend"]
    assert len(here.ask("GET", "/tokens").json()["items"]) == 4


@pytest.mark.parametrize("body", ['{"name": "a", "name": "b", "role": "viewer"}', '{"name": "a", "role": {"x": 1, "x": 2}}'])
def test_a_field_that_is_given_twice_is_refused_and_named(here: Asked, body: str) -> None:
    answer = here.ask("POST", "/tokens", content=body, headers=JSON)

    assert (answer.status_code, "is given twice" in answer.json()["detail"]) == (422, True)


def test_a_name_that_a_token_has_is_a_conflict_and_its_mend_fits(here: Asked) -> None:
    answer = here.ask("POST", "/tokens", json={"name": "viewer", "role": "viewer"})

    assert (answer.status_code, answer.json()["code"]) == (409, "name.taken")
    assert "choose another name" in answer.json()["mend"]
    assert "letters" not in answer.text


def test_a_secret_that_is_shown_once_is_asked_for_without_a_key_of_repetition(here: Asked) -> None:
    key = {"idempotency-key": "tk1"}
    refused = [
        here.ask("POST", "/tokens", json={"name": "idem", "role": "viewer"}, headers=key),
        here.ask("POST", "/nodes/n1/replacement", json={}, headers=key),
    ]

    assert [(one.status_code, "Idempotency-Key" in one.json()["detail"]) for one in refused] == [(422, True)] * 2
    assert "idem" not in [one["name"] for one in here.get("/tokens", "admin")["items"]]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nodes?sort=size", "sort"),
        ("/nodes?where=siet%3Djfk", "Did you mean site"),
        ("/nodes?where=state%3Dbroken", "there is no class broken"),
        ("/nodes?where=site%3D%3D%3D", "selector"),
        ("/nodes?cursor=zzz", "cursor"),
        ("/nodes?cursor=WzFd", "cursor"),
        ("/nodes?limit=0", "limit"),
        ("/nodes?after=n1&sort=state", "goes with the order `node`"),
        ("/nodes?limit=501", "limit"),
        ("/nodes?limit=1&limit=2", "twice"),
        ("/nodes?hwere=site%3Djfk", "no parameter 'hwere' here; there are after, cursor, format, limit, sort, where"),
        ("/alerts?cursor=WyJhIl0", "cursor"),
        ("/nodes/N0", "node"),
    ],
)
def test_a_question_that_cannot_be_is_refused_with_what_is_wrong(here: Asked, path: str, words: str) -> None:
    answer = here.ask("GET", path)

    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    ["/models/x", "/models/m/releases/9.9.9", "/models/m/deployments/x", "/rollouts/m/x", "/nodes/n99", "/nowhere", "/operations/77"],
)
def test_what_is_not_there_is_a_problem_with_a_code(here: Asked, path: str) -> None:
    answer = here.ask("GET", path)

    assert answer.status_code == 404
    assert set(answer.json()) >= {"type", "title", "status", "detail", "code", "mend"}


def test_a_method_that_a_resource_does_not_take_is_refused(here: Asked) -> None:
    answer = here.ask("DELETE", "/fleet")
    other = here.ask("OPTIONS", "/models/m/deployments/default")

    assert (answer.status_code, other.status_code) == (405, 405)
    assert (answer.headers["allow"], other.headers["allow"]) == ("GET", "DELETE, GET, PUT")
    assert answer.json()["code"] == "request.unknown"


def test_nodes_come_in_pages_that_add_up_in_every_order(here: Asked) -> None:
    for sort in ("node", "state", "last_seen", "-last_seen"):
        names, cursor = list[str](), ""
        while cursor is not None:
            found = here.get(f"/nodes?limit=4&sort={sort}{f'&cursor={cursor}' if cursor else ''}")
            names += [one["node"] for one in found["items"]]
            cursor = found["next"]
            assert found["total"] == 6
        assert sorted(names) == [f"n{number}" for number in range(6)]
    other = here.ask("GET", f"/nodes?sort=state&cursor={here.get('/nodes?limit=2')['next']}")
    assert other.status_code == 422
    assert "begin without one" in other.json()["detail"]


def test_a_selector_chooses_nodes_by_label_and_class(here: Asked) -> None:
    assert [one["node"] for one in here.get("/nodes?where=site%3Djfk")["items"]] == ["n0", "n1"]
    assert here.get("/nodes?where=state%3Dserving")["items"] == []


def test_titles_and_mends_are_those_of_a_hub_and_not_of_a_node(here: Asked) -> None:
    settings = here.ask("PATCH", "/nodes/node-99/settings", "operator", json={"cohort": "x"}).json()
    forgotten = here.ask("DELETE", "/nodes/nope", "admin").json()
    odd = here.ask("GET", "/nodes?limit=0").json()
    evil = here.ask("GET", "/fleet", headers={"host": "evil"}).json()

    assert [one["title"] for one in (settings, forgotten)] == ["the hub knows no node of this name"] * 2, (settings, forgotten)
    assert odd["title"] == "the request is not one that the hub's API takes"
    assert (evil["code"], "`web_hosts`" in evil["mend"], "allowed_hosts" in evil["mend"]) == ("request.foreign", True, False)
