"""Keys that are named and have not signed: they are found, reported once with the command that mends it, and the end is reported too."""

from pathlib import Path

import pytest

from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.delivery.unsigned_alerts import PATIENCE_SECONDS, UnsignedAlerts
from hub.signing.unsigned_roles import unsigned_in_words
from tests.databases import url_of
from tests.trust_fleet import NOW, Fleet, change_keys


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.make(tmp_path / "hub")


def name_new_team(fleet: Fleet) -> None:
    """Do the first of the two steps of `fleetcast keys rotate team`."""
    fleet.replace_key("team")
    change_keys(fleet.repository, [fleet.keys["targets"]], now=NOW, teams={"delay": fleet.keys["team"].public_key})


def sign(fleet: Fleet) -> None:
    fleet.repository.renew_releases("delay", team=fleet.keys["team"], now=NOW, keep=None)


def test_a_team_whose_new_key_has_not_signed_is_found_until_it_has(fleet: Fleet) -> None:
    fleet.release("1.0.0")
    before = fleet.repository.unsigned()
    name_new_team(fleet)
    found = fleet.repository.unsigned(before)
    assert (before.roles, found.roles) == ((), ("model-delay",))
    assert "repeat `fleetcast keys rotate team --keep-all`" in unsigned_in_words(found.roles, 1)[0]
    assert "repeat `fleetcast keys rotate team --model delay --keep-all`" in unsigned_in_words(found.roles, 2)[0]

    sign(fleet)

    assert fleet.repository.unsigned(found).roles == ()
    change_keys(fleet.repository, [fleet.keys["targets"]], now=NOW, teams={"delay": None})
    assert fleet.repository.unsigned().roles == ()  # It was revoked, and nothing is left to be done.


def test_a_targets_role_that_its_new_key_has_not_signed_is_found(fleet: Fleet) -> None:
    fleet.replace_key("targets")
    offer = fleet.draft(top={"targets": fleet.keys["targets"].public_key})
    for key in (*fleet.roots, fleet.keys["targets"]):
        offer.sign(key)
    fleet.changes.take_over(offer, now=NOW)
    fleet.repository._folder.path("targets", 2).unlink()  # A process that was killed between the two.

    found = fleet.repository.unsigned().roles

    assert found == ("targets",)
    assert "repeat `fleetcast keys rotate targets`" in unsigned_in_words(found, 1)[0]


def test_a_hub_alerts_of_an_unsigned_role_once_and_of_its_end(fleet: Fleet, tmp_path: Path) -> None:
    fleet.release("1.0.0")
    store, now = Store(url_of(tmp_path / "hub.sqlite"), clock=lambda: 0), [0.0]
    store.create()
    notes = Notes(store, publish=lambda alert: None, clock=lambda: 0.0)
    alerts = UnsignedAlerts(fleet.repository, notes, wall=lambda: 0.0, monotonic=lambda: now[0])

    def tick(seconds: float) -> list[str]:
        now[0] += seconds
        alerts.tick()
        return [row.alert.text for row in store.alerts() if row.alert.code == "key.not_authorised"]

    name_new_team(fleet)
    assert tick(0) == []  # A command takes its moment between the two.
    (text,) = tick(PATIENCE_SECONDS)
    assert "nodes refuse them: repeat `fleetcast keys rotate team --keep-all`" in text
    assert tick(1000) == [text]
    sign(fleet)
    tick(1000)
    assert [event.text for event in store.events(0) if event.kind == "key"] == ["the new keys of model-delay have signed"]
