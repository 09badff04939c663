"""The Python client against a hub that obeys: what it reads, what it does once, and what it raises."""

import threading
from pathlib import Path

import pytest

from hub.client.hub_client import HubClient
from hub.client.place import place_of
from schemas.errors import Code, Refused
from tests.hub.hubs import until
from tests.hub.web.fleets import Asked


def client_of(asked: Asked, role: str = "admin") -> HubClient:
    return HubClient(place_of(str(asked.client.base_url), token=asked.tokens[role], environment={}))


def test_lists_are_read_page_after_page(running: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.client.hub_client.PAGE_ROWS", 2)
    with client_of(running, "viewer") as hub:
        assert [row["node"] for row in hub.nodes()] == [f"n{number}" for number in range(6)]
        assert [row["node"] for row in hub.nodes(where="site=jfk")] == ["n0", "n1"]
        assert [row["version"] for row in hub.releases("m")] == ["1.0.0", "1.1.0"]
        assert hub.release("m", "1.0.0")["model"] == "m"
        assert hub.fleet()["nodes"] == 6
        assert hub.token()["role"] == "viewer"
        assert hub.drift() == []
        assert hub.node("n3")["node"] == "n3"


def test_a_rollout_is_started_followed_and_halted_against_what_was_seen(running: Asked) -> None:
    with client_of(running, "operator") as hub:
        last = hub.fleet()["last_event"]
        started = hub.start_rollout({"model": "m", "version": "1.0.0", "stages": "50,100"})
        seen = hub.rollout("m")
        halted = hub.act("halt", "m", etag=seen.etag)
        with pytest.raises(Refused) as late:
            hub.act("resume", "m", etag=seen.etag)
        with pytest.raises(Refused) as twice:
            hub.act("halt", "m")
        kinds = []
        for event in hub.follow(last):
            kinds.append(event.kind)
            if len(kinds) == 2:
                break

    assert (started.state, halted.state, seen.row["state"]) == ("done", "done", "running")
    assert (late.value.code, "now, and you saw" in late.value.reason) == (Code.REQUEST_STALE, True)
    assert twice.value.code == Code.ROLLOUT_INVALID
    assert kinds == ["rollout", "rollout"]


def test_settings_deployments_and_nodes_are_changed_and_recorded_in_the_name_of_the_token(running: Asked) -> None:
    with client_of(running) as hub:
        hub.set_deployment("m", "hold", {"where": "node=n3", "release": "1.0.0"})
        hub.set_node_settings("n2", {"labels": {"ring": "canary"}})
        hub.set_settings_of_nodes({"where": "site=jfk", "telemetry": False})
        hub.remove_deployment("m", "hold")
        hub.forget_node("n5")
        assert hub.node_settings("n2").row["set"] == {"labels": {"ring": "canary"}}
        assert hub.node_settings("n0").row["set"] == {"telemetry": False}
        assert "hold" not in [row["deployment"] for row in hub.deployments("m")]
        with pytest.raises(Refused) as gone:
            hub.node("n5")
        changes = list(hub.audit(actor="token:admin"))

    assert gone.value.code == Code.NODE_FORGOTTEN
    assert len(changes) >= 5


def test_what_a_role_or_a_token_does_not_allow_is_refused_as_by_the_hub(running: Asked) -> None:
    with client_of(running, "viewer") as hub, pytest.raises(Refused) as role:
        hub.act("halt", "m")
    place = place_of(str(running.client.base_url), token="fct_" + "a" * 43, environment={})
    with HubClient(place) as hub, pytest.raises(Refused) as unknown:
        hub.fleet()

    assert role.value.code == Code.REQUEST_ROLE
    assert unknown.value.code == Code.REQUEST_TOKEN
    assert "fct_" not in repr(place)


def test_new_events_are_followed_without_an_id(running: Asked) -> None:
    found = []

    def listen() -> None:
        with client_of(running, "viewer") as hub:
            for event in hub.follow():
                found.append(event.text)
                if event.text == "the last one":
                    return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()

    def is_followed() -> bool:
        running.fleet.store.add_event("broker", "one", {})
        return bool(found)

    until("the first event", is_followed, seconds=60)
    running.fleet.store.add_event("broker", "the last one", {})
    listener.join(60)

    assert found[-1] == "the last one"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("hub.example:8443", "no address of a hub"),
        ("ftp://hub.example", "no address of a hub"),
        ("http://hub.example:8443", "readable on the way"),
        ("https://hub.example/console", "a scheme, a host and a port only"),
        ("https://ada:secret@hub.example", "a token goes into FLEETCAST_TOKEN_FILE"),
        ("https://hub.example:99999", "no address of a hub"),
        ("https://hub\n.example", "no address of a hub"),
        ("https://", "no address of a hub"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_before_anything_is_sent(url: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        place_of(url, token="fct_x", environment={})
    assert "secret" not in str(refused.value)


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("fct_of_file\nsomething else\n")

    assert place_of("https://h", token_file=file, environment={"FLEETCAST_TOKEN": "x"}).token == "fct_of_file"
    assert place_of("https://h", environment={"FLEETCAST_TOKEN_FILE": str(file)}).token == "fct_of_file"
    assert place_of("https://h", environment={"FLEETCAST_TOKEN": " fct_x "}).token == "fct_x"
    assert place_of("https://h", token="t", environment={"FLEETCAST_CA_FILE": "/ca"}).ca_file == Path("/ca")
    for given, reason in (
        ({}, "no token is given"),
        ({"FLEETCAST_TOKEN_FILE": "/nowhere"}, "No such file"),
        ({"FLEETCAST_TOKEN": "a b"}, "1 to"),
    ):
        with pytest.raises(Refused, match=reason):
            place_of("https://h", environment=given)
