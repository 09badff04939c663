"""A release that is withdrawn and a model that is removed, as nodes see them: signed, and never undone by what was signed before."""

from pathlib import Path

import pytest

from node.trust.tuf_client import Trust
from schemas import codec
from schemas.bundle import TrustBundle
from schemas.errors import Code, Refused, Unreachable
from tests.trust_fleet import Fleet, manifest


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet.make(tmp_path / "hub", models=("delay", "other"))
    for version in ("1.0.0", "1.1.0"):
        fleet.release(version)
    fleet.release("1.0.0", model="other")
    fleet.roll("1.0.0", serial=5)
    return fleet


@pytest.fixture
def trust(fleet: Fleet, tmp_path: Path) -> Trust:
    """A node that has seen the fleet as it was."""
    trust = Trust(tmp_path / "node", fleet.repository.root())
    see(trust, fleet)
    return trust


def see(trust: Trust, fleet: Fleet) -> "tuple[set[str], set[str]]":
    """Take the hub's newest bundle; the models and the rollouts that the node then knows."""
    bundle = codec.decode(TrustBundle, codec.encode(fleet.refresh()))
    view = trust.accept(bundle, now=fleet.now)
    return set(view.models), set(view.rollouts)


def remove(fleet: Fleet) -> None:
    fleet.repository.undelegate("delay", targets=fleet.keys["targets"], now=fleet.now)


def test_a_removed_release_is_listed_no_more_and_its_manifest_stays(fleet: Fleet) -> None:
    fleet.repository.remove_release("delay", "1.0.0", team=fleet.keys["team"], now=fleet.now)

    assert fleet.repository.releases("delay") == ["1.1.0"]
    assert fleet.repository.removed() == [("delay", "1.0.0")]
    assert fleet.repository.kept_manifest("delay", "1.0.0") == manifest("1.0.0")
    with pytest.raises(Refused, match="withdrawn"):
        fleet.release("1.0.0")


def test_the_last_release_of_a_model_can_be_removed_and_another_published(fleet: Fleet, trust: Trust) -> None:
    fleet.repository.remove_release("other", "1.0.0", team=fleet.keys["team"], now=fleet.now)
    see(trust, fleet)
    empty = trust.accept_model(fleet.models(model="other"), now=fleet.now)
    fleet.release("1.1.0", model="other")
    see(trust, fleet)
    [release] = trust.accept_model(fleet.models("1.1.0", model="other"), now=fleet.now)

    assert empty == ()
    assert release.manifest.version == "1.1.0"


def test_only_the_targets_key_removes_a_model(fleet: Fleet) -> None:
    for key in ("team", "rollouts", "snapshot", "stranger"):
        with pytest.raises(Refused) as caught:
            fleet.repository.undelegate("delay", targets=fleet.keys[key], now=fleet.now)
        assert caught.value.code == Code.KEY_NOT_AUTHORISED

    assert fleet.repository.models() == ["delay", "other"]


def test_a_node_sees_that_a_model_was_removed_with_its_rollout_or_before_it(fleet: Fleet, trust: Trust) -> None:
    remove(fleet)
    first = see(trust, fleet)
    dropped = fleet.repository.drop_rollouts(rollouts=fleet.keys["rollouts"], now=fleet.now)
    second = see(trust, fleet)

    assert (first, dropped, second) == (({"other"}, {"delay"}), ["delay"], ({"other"}, set()))
    assert fleet.repository.drop_rollouts(rollouts=fleet.keys["rollouts"], now=fleet.now) == []
    assert fleet.repository.removed_models() == ["delay"]


def test_nothing_warns_of_the_expiry_of_a_removed_model(fleet: Fleet) -> None:
    remove(fleet)

    assert "model-other" in {one.role for one in fleet.repository.expiries(fleet.now)}
    assert "model-delay" not in {one.role for one in fleet.repository.expiries(fleet.now)}


@pytest.mark.parametrize("team", ["team", "stranger"], ids=["the_same_team", "another_team"])
def test_a_model_made_anew_has_only_new_releases(fleet: Fleet, trust: Trust, team: str) -> None:
    old = fleet.models("1.0.0", "1.1.0")
    remove(fleet)
    see(trust, fleet)
    fleet.repository.delegate("delay", team=fleet.keys[team].public_key, targets=fleet.keys["targets"], now=fleet.now)
    delegated = see(trust, fleet)
    with pytest.raises(Refused, match="no release yet"):
        fleet.models("1.0.0")
    listed = fleet.repository.releases("delay")
    fleet.release("2.0.0", key=team)
    see(trust, fleet)
    [release] = trust.accept_model(fleet.models("1.0.0", "2.0.0"), now=fleet.now)

    assert delegated[0] == {"delay", "other"}
    assert listed == []
    assert release.manifest.version == "2.0.0"
    with pytest.raises((Refused, Unreachable)):
        trust.accept_model(old, now=fleet.now)
    with pytest.raises(Refused, match="withdrawn"):
        fleet.release("1.0.0", key=team)


def test_a_new_node_of_a_fleet_with_a_removed_model_trusts_it(fleet: Fleet, tmp_path: Path) -> None:
    remove(fleet)

    assert see(Trust(tmp_path / "new", fleet.repository.root()), fleet)[0] == {"other"}
