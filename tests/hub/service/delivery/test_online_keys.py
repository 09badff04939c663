"""A hub that runs while its keys are replaced, or while what people sign comes to its end."""

import time
from collections.abc import Collection
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, Signer

from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.delivery.online_keys import AGAIN_SECONDS, OnlineKeys
from hub.signing.signatures import ReplaceableSigner
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused
from tests.databases import url_of
from tests.hub import hubs
from tests.hub.hubs import until
from tests.trust_fleet import NOW, Fleet

ONLINE = ("snapshot", "timestamp", "rollouts")


class Hub:
    """The keys of a hub, and the files from which it opens them: `opens` has those that it can open."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet.make(folder / "trust")
        self.store = Store(url_of(folder / "hub.sqlite"))
        self.store.create()
        self.alerts, self.opens, self.at = list[Alert](), dict[str, Signer](), 0.0
        self.held = {role: ReplaceableSigner(self.fleet.keys[role]) for role in ONLINE}
        self.keys = OnlineKeys(
            repository=self.fleet.repository,
            keys=self.held,
            load=self.load,
            notes=Notes(self.store, publish=self.alerts.append, clock=NOW.timestamp),
            wall=NOW.timestamp,
            monotonic=lambda: self.at,
        )

    def load(self, role: str, keyids: Collection[str]) -> Signer:
        if role not in self.opens or self.opens[role].public_key.keyid not in keyids:
            raise Refused(Code.KEY_PASSPHRASE, f"the passphrase does not open key {role}.pem")
        return self.opens[role]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def test_all_parts_of_a_hub_sign_with_the_key_that_the_metadata_names_now(hub: Hub) -> None:
    hub.keys.tick()
    for role in ("timestamp", "snapshot"):
        hub.fleet.replace_key(role)
        hub.opens[role] = hub.fleet.keys[role]
    hub.fleet.rekey("timestamp", "snapshot")

    hub.keys.tick()

    assert hub.held["timestamp"].public_key.keyid == hub.fleet.keys["timestamp"].public_key.keyid
    assert hub.fleet.repository.refresh(snapshot=hub.held["snapshot"], timestamp=hub.held["timestamp"], now=NOW)
    assert [event.body["role"] for event in hub.store.changes() if event.kind == "key"] == ["timestamp", "snapshot"]
    assert hub.alerts == []


def test_a_key_that_does_not_open_is_alerted_once_and_tried_again(hub: Hub) -> None:
    hub.fleet.replace_key("rollouts")
    hub.fleet.rekey_rollouts()
    for _ in range(3):
        hub.keys.tick()
        hub.at += AGAIN_SECONDS

    assert [alert.code for alert in hub.alerts] == ["key.passphrase"]
    assert "cannot sign rollouts" in hub.alerts[0].text
    hub.opens["rollouts"] = hub.fleet.keys["rollouts"]
    hub.keys.tick()
    assert hub.held["rollouts"].public_key.keyid == hub.fleet.keys["rollouts"].public_key.keyid


def test_a_stranger_key_is_not_taken_up_though_it_opens(hub: Hub) -> None:
    hub.fleet.replace_key("timestamp")
    hub.fleet.rekey("timestamp")
    hub.opens["timestamp"] = CryptoSigner.generate_ed25519()

    hub.keys.tick()

    assert hub.held["timestamp"].public_key.keyid not in hub.fleet.repository.keyids("timestamp")
    assert len(hub.alerts) == 1


def test_what_people_have_to_sign_again_is_alerted_with_how(tmp_path: Path) -> None:
    fleet = hubs.Fleet(tmp_path / "fleet")
    ahead = 190 * 86_400.0  # The root has less than half of its life left, and the targets role none.
    with fleet.hub(None, wall=lambda: time.time() + ahead):
        alerts = until("the alerts", lambda: found if len(found := fleet.store.alerts_of("key_expiring")) >= 2 else None)

    said = {alert.text.split()[1]: (alert.code, alert.text) for alert in alerts}
    assert (said["root"][0], said["targets"][0]) == ("warning", "expired")
    assert "fleetcast keys ceremony" in said["root"][1]
    assert "fleetcast renew" in said["targets"][1]
    assert not set(said) & set(ONLINE)
