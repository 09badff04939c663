"""The same programs over the API of a hub: what is asked, done, published and refused there."""

from collections.abc import Iterator

import pytest

import fleetcast
from hub.operations import api_tokens
from tests.hub.library.scenes import MODEL, Running, estimator, frame, key_of, opened


@pytest.fixture(scope="module")
def token(hub: Running) -> str:
    """A token that may do everything."""
    return token_of(hub, "admin")


def token_of(hub: Running, role: api_tokens.Role) -> str:
    fleet = opened(hub.made)
    try:
        return api_tokens.make(fleet, name=f"{role}-of-a-program", role=role, days=1)[1]
    finally:
        fleet.store.close()


@pytest.fixture(scope="module")
def fleet(hub: Running, token: str) -> Iterator[fleetcast.Fleet]:
    """The fleet behind the hub's API."""
    with fleetcast.connect(hub.ready["web_url"], token=token) as fleet:
        yield fleet


def test_what_the_folder_answers_the_api_answers_alike(hub: Running, fleet: fleetcast.Fleet) -> None:
    with fleetcast.open(hub.made.fleet) as here:
        assert fleet.name == here.name
        assert fleet.models() == here.models()
        assert fleet.releases() == here.releases()
        assert [one.node for one in fleet.nodes()] == [one.node for one in here.nodes()] == ["n0"]
        assert fleet.drift() == here.drift()
        assert fleet.plan("delay@1.1.0", where="site=n0") == here.plan("delay@1.1.0", where="site=n0")
        assert list(fleet.nodes().to_pandas().columns) == list(here.nodes().to_pandas().columns)


def test_a_trained_model_is_signed_here_and_published_there(hub: Running, fleet: fleetcast.Fleet) -> None:
    sent: list[str] = []

    release = fleet.publish(
        estimator(3.0),
        name=MODEL,
        version="2.0.0",
        reference=frame(),
        blocks="day",
        signer=key_of(hub.made),
        progress=lambda what, done, total: sent.append(what),
    )

    assert release.announced
    assert fleet.release("delay@2.0.0").digest == release.digest
    assert "sending payloads" in sent
    with fleetcast.open(hub.made.fleet) as here:
        again = here.publish(estimator(3.0), name=MODEL, version="2.0.0", reference=frame(), blocks="day", signer=key_of(hub.made))
    assert again.digest == release.digest
    with pytest.raises(TypeError, match=r"needs signer=fleetcast\.Key"):
        fleet.publish(estimator(), name=MODEL, version="2.1.0")


def test_a_rollout_is_followed_and_halted_over_the_api(hub: Running, fleet: fleetcast.Fleet) -> None:
    rollout = fleet.roll_out("delay@1.1.0", where="site=n0", supersede=True, timeout=120)
    assert rollout.deployment == "site-n0"
    follower = iter(rollout)
    assert next(follower).state == "running"

    assert fleet.halt(MODEL, rollout.deployment).state == "done"

    with pytest.raises(fleetcast.RolloutEnded, match="is halted") as caught:
        list(follower)
    assert caught.value.code == "rollout.halted"
    assert fleet.resume(MODEL, rollout.deployment).text
    with pytest.raises(fleetcast.Refused) as refused:
        fleet.resume(MODEL, rollout.deployment)
    assert (refused.value.code, bool(refused.value.mend)) == (fleetcast.Code.ROLLOUT_INVALID, True)


def test_events_are_followed_over_the_api(hub: Running, fleet: fleetcast.Fleet) -> None:
    history = fleet.history()

    first = next(fleet.events(after=history[0].id - 1))

    assert first == history[0]


def test_a_token_that_may_not_is_refused_with_its_role(hub: Running) -> None:
    with fleetcast.connect(hub.ready["web_url"], token=token_of(hub, "viewer")) as fleet:
        assert len(fleet.nodes()) == 1
        with pytest.raises(fleetcast.Refused) as caught:
            fleet.halt(MODEL)

    assert caught.value.code is fleetcast.Code.REQUEST_ROLE


def test_a_hub_that_does_not_let_in_is_named_at_once(hub: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEETCAST_TOKEN", raising=False)
    url = hub.ready["web_url"]

    with pytest.raises(fleetcast.Refused) as caught:
        fleetcast.connect(url, token="fct_nosuch")
    assert caught.value.code is fleetcast.Code.REQUEST_TOKEN
    with pytest.raises(fleetcast.Refused, match="no token is given"):
        fleetcast.connect(url)
    with pytest.raises(fleetcast.Refused, match="readable on the way"):
        fleetcast.connect("http://hub.example", token="fct_x")
    with pytest.raises(TypeError, match="not both"):
        fleetcast.connect(url, token="a", token_file="b")
    with pytest.raises(fleetcast.Unreachable) as unreachable:
        fleetcast.connect("http://127.0.0.1:9", token="fct_x")
    assert unreachable.value.mend


def test_a_fleet_never_shows_its_token(fleet: fleetcast.Fleet, token: str, hub: Running) -> None:
    assert repr(fleet) == f"<fleet {hub.ready['web_url']}>"
    assert token not in repr(vars(fleet))
