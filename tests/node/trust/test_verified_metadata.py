"""What was verified is verified once, by the keys that count now: a key that is replaced takes what it has signed with it."""

from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import SSlibKey

from node.trust.tuf_client import Trust
from schemas.errors import Code, Refused
from tests.trust_fleet import HOUR, Fleet, forged, signed

MODELS = [f"m{number}" for number in range(12)]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet.make(tmp_path / "hub", models=MODELS)
    for model in MODELS:
        made.release("1.0.0", model=model)
    return made


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys by which signatures are checked from now on."""
    found, verify = list[str](), SSlibKey.verify_signature

    def counting(self: SSlibKey, *arguments: Any, **more: Any) -> None:
        found.append(self.keyid)
        verify(self, *arguments, **more)

    monkeypatch.setattr(SSlibKey, "verify_signature", counting)
    return found


def test_a_change_of_one_model_costs_a_node_two_roles_and_its_own(fleet: Fleet, tmp_path: Path, checked: list[str]) -> None:
    trust = Trust(tmp_path / "node", fleet.repository.root())
    trust.accept_roles(fleet.roles(), now=fleet.now)
    fleet.release("1.1.0", model="m3")
    roles = fleet.roles()
    names = {fleet.keys[name].public_key.keyid: name for name in ("snapshot", "timestamp", "targets", "team")}

    checked.clear()
    trust.accept_roles(roles, now=fleet.now)
    assert sorted(names[one] for one in checked if one in names) == ["snapshot", "timestamp"]

    checked.clear()
    (_, release) = trust.accept_model(fleet.models("1.0.0", "1.1.0", model="m3"), now=fleet.now)
    assert [names[one] for one in checked if one in names] == ["team"]
    assert release.manifest.version == "1.1.0"


def test_what_was_verified_counts_no_more_once_its_key_is_replaced(fleet: Fleet, tmp_path: Path) -> None:
    trust = Trust(tmp_path / "node", fleet.repository.root())
    before = fleet.roles()
    trust.accept_roles(before, now=fleet.now)
    fleet.replace_key("targets")
    fleet.rekey("targets")
    after = fleet.roles()
    # The thief of the old key has the snapshot's as well, and keeps the targets role that this node has verified.
    meta = {**signed(after.snapshot).meta, "targets.json": signed(before.snapshot).meta["targets.json"]}
    kept = after.model_copy(update={"targets": before.targets, "snapshot": forged(after.snapshot, fleet.keys["snapshot"], meta=meta)})

    with pytest.raises(Refused) as refused:
        trust.accept_roles(kept, now=fleet.now)
    assert refused.value.code is Code.TRUST_SIGNATURE
    assert trust.accept_roles(after, now=fleet.now).root_version == 2


def test_what_is_known_expires_all_the_same(fleet: Fleet, tmp_path: Path) -> None:
    trust = Trust(tmp_path / "node", fleet.repository.root())
    roles = fleet.roles()
    trust.accept_roles(roles, now=fleet.now)
    late = fleet.roles(after=HOUR).model_copy(update={"targets": roles.targets})
    expired = signed(roles.targets).expires + HOUR

    with pytest.raises(Refused) as refused:
        trust.accept_roles(
            late.model_copy(update={"timestamp": forged(late.timestamp, fleet.keys["timestamp"], expires=expired + HOUR)}), now=expired
        )
    assert refused.value.code is Code.TRUST_EXPIRED
