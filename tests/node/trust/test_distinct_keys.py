"""A threshold counts holders, and not the names under which a role lists their keys."""

from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata

from node.trust.distinct_keys import check_distinct_keys
from schemas.errors import Code, Refused
from tests.trust_fleet import Fleet, signed


def renamed(key: Key) -> Key:
    return Key.from_dict("another-name", key.to_dict())


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_one_key_under_two_names_reaches_no_threshold(tmp_path: Path, role: str) -> None:
    fleet = Fleet.make(tmp_path / "hub")
    roles = fleet.roles()
    metadata: Metadata[Any] = Metadata.from_bytes(roles.roots[0])
    key = fleet.keys["root-1" if role == "root" else role].public_key
    metadata.signed.add_key(renamed(key), role)
    check_distinct_keys(roles.roots, signed(roles.targets))

    with pytest.raises(Refused, match=f"role {role} of root 1") as caught:
        check_distinct_keys([metadata.to_bytes()], signed(roles.targets))
    assert caught.value.code is Code.TRUST_SIGNATURE


@pytest.mark.parametrize("role", ["rollouts", "model-delay"])
def test_a_delegated_role_names_each_key_once(tmp_path: Path, role: str) -> None:
    fleet = Fleet.make(tmp_path / "hub")
    roles = fleet.roles()
    targets = signed(roles.targets)
    targets.add_key(renamed(fleet.keys["rollouts" if role == "rollouts" else "team"].public_key), role)

    with pytest.raises(Refused, match=f"role {role} names one key"):
        check_distinct_keys(roles.roots, targets)
