"""What operators do over the API, with a hub that obeys: each request once, against what was seen, in the name of the token."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sqlalchemy import event, update
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from hub.database import tables
from hub.web import problems
from hub.web.application import application
from hub.web.guard import Door
from tests.hub.web.fleets import Asked


def test_a_rollout_is_started_followed_halted_resumed_and_taken_back(running: Asked) -> None:
    started = running.ask("POST", "/rollouts", "operator", json={"model": "m", "version": "1.0.0", "stages": "50,100", "approve": [100]})
    shown = running.ask("GET", "/rollouts/m/default", "viewer")
    halted = running.ask("POST", "/rollouts/m/default/halt", "operator", headers={"if-match": shown.headers["etag"]})
    twice = running.ask("POST", "/rollouts/m/default/halt", "operator")
    resumed = running.ask("POST", "/rollouts/m/default/resume", "operator")
    approved = running.ask("POST", "/rollouts/m/default/approve", "operator")
    retried = running.ask("POST", "/rollouts/m/default/retry", "operator")
    nodes = running.get("/rollouts/m/default/nodes?where=site%3Djfk")
    gates = running.get("/rollouts/m/default/gates")
    back = running.ask("POST", "/rollouts/m/default/back", "operator")

    assert started.status_code == 200, started.text
    assert started.json()["state"] == "done"
    assert running.ask("GET", started.headers["location"].removeprefix("/api/v1")).json()["text"] == started.json()["text"]
    assert (shown.json()["state"], shown.json()["percent"], sum(shown.json()["classes"].values())) == ("running", 50, 6)
    assert [one["stage"] for one in shown.json()["stages"]] == ["50 %", "100 %"]
    assert [one.status_code for one in (halted, resumed, approved, back)] == [200] * 4
    assert (twice.status_code, twice.json()["code"]) == (409, "rollout.invalid")
    assert "no node has failed" in retried.json()["detail"]
    assert [one["node"] for one in nodes["items"]] == ["n0", "n1"]
    assert all(one["sentence"] for one in nodes["items"])
    assert isinstance(gates["items"], list)
    assert {one["actor"] for one in running.get("/audit?model=m&limit=4")["items"]} == {"token:operator"}


def test_what_has_changed_since_it_was_seen_is_not_changed(running: Asked) -> None:
    made = running.ask("PUT", "/models/m/deployments/hold", "operator", json={"where": "node=n3", "priority": 90, "release": "1.0.0"})
    seen = running.ask("GET", "/models/m/deployments/hold", "viewer")
    changed = running.ask(
        "PUT", "/models/m/deployments/hold", "operator", json={"priority": 91}, headers={"if-match": seen.headers["etag"]}
    )
    late = running.ask("DELETE", "/models/m/deployments/hold", "operator", headers={"if-match": seen.headers["etag"]})
    odd = running.ask("DELETE", "/models/m/deployments/hold", "operator", headers={"if-match": "W/7"})
    start = {"model": "m", "version": "1.1.0", "supersede": True}
    late_start = running.ask("POST", "/rollouts", "operator", json=start, headers={"if-match": seen.headers["etag"]})

    serial = int(seen.headers["etag"].strip('"'))
    assert [made.status_code, changed.status_code] == [200, 200], (made.text, changed.text)
    assert (late.status_code, late.json()["code"]) == (412, "request.stale")
    assert f"have serial {serial + 1} now, and you saw {serial}" in late.json()["detail"]
    assert odd.status_code == 422
    assert (late_start.status_code, late_start.json()["code"]) == (412, "request.stale")
    assert running.get("/models/m/deployments/hold")["priority"] == 91
    assert running.ask("DELETE", "/models/m/deployments/hold", "operator").status_code == 200


def test_of_two_who_saw_the_same_only_one_changes_it(running: Asked) -> None:
    running.ask("PUT", "/models/m/deployments/two", "operator", json={"where": "node=n4", "release": "1.0.0"})
    etag = running.ask("GET", "/models/m/deployments/two").headers["etag"]

    def change(priority: int) -> int:
        return running.ask(
            "PUT", "/models/m/deployments/two", "operator", json={"priority": priority}, headers={"if-match": etag}
        ).status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(pool.map(change, (60, 61, 62, 63)))

    assert statuses == [200, 412, 412, 412]


def test_a_request_that_is_repeated_with_its_key_is_done_once(running: Asked) -> None:
    wish, key = {"where": "node=n5", "release": "1.1.0"}, {"idempotency-key": "9f3c"}
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: running.ask("PUT", "/models/m/deployments/once", "operator", json=wish, headers=key), range(3)))
    other = running.ask("PUT", "/models/m/deployments/once", "operator", json={**wish, "priority": 3}, headers=key)
    anothers = running.ask("PUT", "/models/m/deployments/once", "admin", json=wish, headers=key)

    assert {one.status_code for one in answers} == {200}
    assert len({one.json()["id"] for one in answers}) == 1
    assert (other.status_code, other.json()["code"]) == (422, "request.repeated")
    assert anothers.json()["id"] != answers[0].json()["id"]


def test_labels_of_nodes_are_set_by_name_and_selector(running: Asked) -> None:
    before = running.ask("GET", "/nodes/n2/settings")
    one = running.ask(
        "PATCH", "/nodes/n2/settings", "operator", json={"labels": {"ring": "canary"}}, headers={"if-match": before.headers["etag"]}
    )
    late = running.ask("PATCH", "/nodes/n2/settings", "operator", json={"cohort": "nyc"}, headers={"if-match": before.headers["etag"]})
    many = running.ask(
        "POST", "/node-settings", "operator", json={"where": "site=jfk", "telemetry": False, "display_name": "=cmd|' /C calc'!A0"}
    )
    nothing = running.ask("PATCH", "/nodes/n2/settings", "operator", json={})

    assert (before.headers["etag"], one.status_code) == ('"0"', 200), one.text
    assert running.get("/nodes/n2/settings")["set"] == {"labels": {"ring": "canary"}}
    assert (late.status_code, "have serial 1 now, and you saw 0" in late.json()["detail"]) == (412, True)
    assert many.json()["notes"] == ["this changes the settings of 2 of 2 nodes"]
    assert running.get("/nodes/n0/settings")["set"]["telemetry"] is False
    assert nothing.status_code == 422


def test_a_node_that_is_forgotten_leaves_every_list(running: Asked) -> None:
    done = running.ask("DELETE", "/nodes/n5", "admin")
    gone = running.ask("GET", "/nodes/n5")

    assert done.json() == {"node": "n5", "certificates_revoked": 0, "tokens_withdrawn": 0}
    assert (gone.status_code, gone.json()["code"]) == (404, "node.forgotten")
    assert running.ask("DELETE", "/nodes/n5", "admin").status_code == 200
    assert running.ask("DELETE", "/nodes/n99", "admin").status_code == 404


def test_a_request_that_no_hub_obeys_is_an_operation_that_can_be_followed(here: Asked) -> None:
    asked = here.ask("POST", "/rollouts?wait=0", "operator", json={"model": "m", "version": "1.0.0"})
    unknown = here.ask("POST", "/rollouts?wait=0", "operator", json={"model": "m", "version": "7.0.0"})

    assert (asked.status_code, asked.json()["state"]) == (202, "open")
    assert here.get(f"/operations/{asked.json()['id']}")["state"] == "open"
    assert (unknown.status_code, unknown.json()["code"]) == (404, "release.unknown")


def test_a_link_to_the_console_is_printed_and_a_hub_that_does_not_run_has_none(running: Asked, unused: Asked) -> None:
    done = running.made.run("console", "--role", "viewer", "--actor", "ada", "--json")
    found = json.loads(done.stdout)
    page = running.client.get(found["sign_in"])
    none = unused.made.run("console")

    assert found["sign_in"].startswith(f"{found['console']}/login?once=")
    assert "Sign in as ada, viewer?" in page.text
    assert none.returncode == 4
    assert "no console runs: start `fleetcast hub`" in none.stderr


def test_a_repeated_request_is_answered_with_warnings_and_deployment(here: Asked, door: Door) -> None:
    wish, key = {"model": "m", "version": "1.0.0", "where": "site=jfk"}, {"idempotency-key": "again"}
    first, second = (here.ask("POST", "/rollouts?wait=0", "operator", json=wish, headers=key) for _ in range(2))
    with TestClient(application(door), base_url="http://localhost") as restarted:
        later = replace(here, client=restarted).ask("POST", "/rollouts?wait=0", "operator", json=wish, headers=key).json()

    assert (first.status_code, first.json()["deployment"]) == (202, "site-jfk")
    assert first.json()["warnings"]
    assert second.json() == first.json()
    assert later == first.json()  # A hub that was started anew knows it from its database.


def test_a_request_that_an_earlier_hub_took_is_answered_by_its_command(here: Asked) -> None:
    wish, key = {"model": "m", "version": "1.0.0", "where": "site=lga"}, {"idempotency-key": "earlier"}
    first = here.ask("POST", "/rollouts?wait=0", "operator", json=wish, headers=key).json()
    with here.fleet.store.database.write() as db:
        db.execute(update(tables.api_requests).where(tables.api_requests.c.key == "earlier").values(besides=None))
    second = here.ask("POST", "/rollouts?wait=0", "operator", json=wish, headers=key).json()

    assert first["warnings"]
    assert second == {**first, "warnings": [], "notes": []}


def test_ten_thousand_enrolment_tokens_are_made_by_a_few_statements(here: Asked) -> None:
    statements: list[str] = []
    count = lambda *told: statements.append(told[2])  # noqa: E731
    event.listen(Engine, "before_cursor_execute", count)
    try:
        made = here.ask("POST", "/enrolment-tokens", "admin", json={"node": "many", "count": 10_000})
    finally:
        event.remove(Engine, "before_cursor_execute", count)

    assert made.status_code == 201, made.text
    assert len({one["token"] for one in made.json()["items"]}) == 10_000
    assert len(statements) < 100  # One after another they took a minute, in which nobody else could write.


def test_a_refusal_names_fields_and_no_options_of_the_command_line(here: Asked) -> None:
    wish = {"model": "m", "version": "1.0.0"}
    nowhere = here.ask("POST", "/rollouts", "operator", json={**wish, "where": "site=nowhere"}).json()
    unmade = here.ask("POST", "/rollouts", "operator", json={**wish, "deployment": "none"}).json()

    assert nowhere["detail"].endswith("`allow_empty` sets it all the same")
    assert unmade["detail"].endswith("give `where` SELECTOR to make it")
    assert problems.in_fields("first `fleetcast rollout halt m --deployment a`; or --set") == (
        "first `fleetcast rollout halt m --deployment a`; or `parameters`"
    )
    for command in ("no check (fleetcast check m@1.0.0 --profile pi4,tiny)", "it is `fleetcast check m@1.0.0 --profile tiny`"):
        assert problems.in_fields(f"{command}; --supersede") == f"{command}; `supersede`"


def test_a_warning_names_a_command_that_can_be_typed(here: Asked) -> None:
    started = here.ask("POST", "/rollouts?wait=0", "operator", json={"model": "m", "version": "1.0.0"}).json()

    assert started["warnings"][-1].endswith("(`fleetcast check m@1.0.0 --profile pi4,gateway,tiny`)")


def test_a_command_line_is_answered_with_options_where_others_are_with_fields(here: Asked) -> None:
    wish, options = {"model": "m", "version": "1.0.0"}, {"fleetcast-words": "options"}
    nowhere = here.ask("POST", "/rollouts", "operator", json={**wish, "where": "site=nowhere"}, headers=options).json()
    started = {**wish, "where": "site=jfk"}
    named, plain = (here.ask("POST", "/rollouts?wait=0", "operator", json=started, headers=more).json() for more in (options, {}))

    assert nowhere["detail"].endswith("--allow-empty sets it all the same")
    assert [problems.in_fields(one) for one in named["warnings"]] == plain["warnings"]
    assert problems.in_fields("or add --force") == "or add `force`"
