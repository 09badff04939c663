"""Cases of TUF's conformance suite that no other test here has, in our words, against a node's own client and its own bundles.

The suite itself is in no package registry; `make test-conformance` runs a checkout of it against `conformance_client.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, MetaFile, Root

from node.trust.tuf_client import Trust
from schemas import codec
from schemas.bundle import TrustRoles
from schemas.errors import Code, Refused
from tests.trust_fleet import DAY, Fleet, forged, signed, tree

pytestmark = pytest.mark.attacks


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.make(tmp_path / "hub")


@pytest.fixture
def trust(fleet: Fleet, tmp_path: Path) -> Trust:
    """A node that has seen the fleet's first roles."""
    made = Trust(tmp_path / "node", fleet.repository.root())
    take(made, fleet.roles(), fleet)
    return made


def take(trust: Trust, roles: TrustRoles, fleet: Fleet) -> Any:
    return trust.accept_roles(codec.decode(TrustRoles, codec.encode(roles)), now=fleet.now)


def refused(trust: Trust, roles: TrustRoles, fleet: Fleet, *codes: Code) -> None:
    before = tree(trust._directory)
    with pytest.raises(Refused) as caught:
        take(trust, roles, fleet)

    assert caught.value.code in codes
    assert tree(trust._directory) == before


def newer(fleet: Fleet) -> TrustRoles:
    fleet.repository.renew_targets(targets=fleet.keys["targets"], now=fleet.now)
    return fleet.roles()


def with_root(fleet: Fleet, roles: TrustRoles, change: Callable[[Root], None], **more: bytes) -> TrustRoles:
    """The next root with a change, signed by a threshold of its holders."""
    metadata: Metadata[Root] = Metadata.from_bytes(roles.roots[-1])
    metadata.signed.version += 1
    change(metadata.signed)
    metadata.signatures.clear()
    for holder in fleet.roots:
        metadata.sign(holder, append=True)
    return roles.model_copy(update={"roots": (*roles.roots, metadata.to_bytes()), **more})


def name_keys(role: str, threshold: int, *keys: Key) -> Callable[[Root], None]:
    def change(root: Root) -> None:
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for key in keys:
            root.add_key(key, role)
        root.roles[role].threshold = threshold

    return change


def test_a_role_under_its_threshold_is_refused(fleet: Fleet, trust: Trust) -> None:
    second, roles = CryptoSigner.generate_ed25519(), newer(fleet)
    both = name_keys("snapshot", 2, fleet.keys["snapshot"].public_key, second.public_key)

    refused(trust, with_root(fleet, roles, both), fleet, Code.TRUST_SIGNATURE)
    signed_by_both = forged(roles.snapshot, fleet.keys["snapshot"], second)
    assert take(trust, with_root(fleet, roles, both, snapshot=signed_by_both), fleet).root_version == 2


def test_one_key_under_two_names_is_one_signature(fleet: Fleet, trust: Trust) -> None:
    key, roles = fleet.keys["snapshot"].public_key, newer(fleet)
    again = Key.from_dict("another-name", key.to_dict())
    twice = with_root(fleet, roles, name_keys("snapshot", 2, key, again))
    metadata: Metadata[Any] = Metadata.from_bytes(roles.snapshot)
    only = next(iter(metadata.signatures.values()))
    metadata.signatures["another-name"] = type(only)("another-name", only.signature)

    refused(trust, twice.model_copy(update={"snapshot": metadata.to_bytes()}), fleet, Code.TRUST_SIGNATURE)


def test_a_signature_that_stands_twice_is_refused(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)
    text = roles.snapshot.decode()
    at = text.index('"signatures"')
    begin, end = text.index("{", at), text.index("}", at) + 1
    doubled = f"{text[:end]},{text[begin:end]}{text[end:]}".encode()

    refused(trust, roles.model_copy(update={"snapshot": doubled}), fleet, Code.SCHEMA_MALFORMED, Code.TRUST_SIGNATURE)


def test_a_bad_signature_beside_enough_good_ones_is_no_harm(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)
    metadata: Metadata[Any] = Metadata.from_bytes(roles.snapshot)
    metadata.sign(fleet.keys["stranger"], append=True)
    stamp = forged(roles.timestamp, fleet.keys["timestamp"])

    take(trust, roles.model_copy(update={"snapshot": metadata.to_bytes(), "timestamp": stamp}), fleet)


def test_a_targets_role_with_another_hash_than_the_snapshot_lists_is_refused(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)
    meta = {**signed(roles.snapshot).meta, "targets.json": MetaFile(signed(roles.targets).version, hashes={"sha256": "0" * 64})}
    snapshot = forged(roles.snapshot, fleet.keys["snapshot"], meta=meta)

    refused(trust, roles.model_copy(update={"snapshot": snapshot}), fleet, Code.TRUST_MISMATCH)


def test_a_snapshot_with_another_hash_than_the_timestamp_lists_is_refused(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)
    listed = MetaFile(signed(roles.snapshot).version, hashes={"sha256": "0" * 64})
    stamp = forged(roles.timestamp, fleet.keys["timestamp"], snapshot_meta=listed)

    refused(trust, roles.model_copy(update={"timestamp": stamp}), fleet, Code.TRUST_MISMATCH)


def test_a_snapshot_longer_than_the_timestamp_lists_is_refused(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)
    listed = MetaFile(signed(roles.snapshot).version, length=10)
    stamp = forged(roles.timestamp, fleet.keys["timestamp"], snapshot_meta=listed)

    refused(trust, roles.model_copy(update={"timestamp": stamp}), fleet, Code.TRUST_MISMATCH, Code.SCHEMA_TOO_LARGE)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_a_role_of_another_version_than_is_listed_is_refused(fleet: Fleet, trust: Trust, role: str) -> None:
    roles = newer(fleet)
    data = forged(getattr(roles, role), fleet.keys[role], version=99)

    refused(trust, roles.model_copy(update={role: data}), fleet, Code.TRUST_MISMATCH)


def test_a_root_that_leaves_a_version_out_is_refused(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)

    def skip(root: Root) -> None:
        root.version += 1

    refused(trust, with_root(fleet, roles, skip), fleet, Code.TRUST_INCOMPLETE, Code.TRUST_MISMATCH)


def test_fields_that_the_specification_does_not_know_are_taken(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)
    metadata: Metadata[Any] = Metadata.from_bytes(roles.timestamp)
    metadata.signed.unrecognized_fields["of-a-newer-hub"] = {"a": [1, "b"]}
    metadata.signatures.clear()
    metadata.sign(fleet.keys["timestamp"])

    assert not take(trust, roles.model_copy(update={"timestamp": metadata.to_bytes()}), fleet).stale


def test_an_expired_root_between_two_good_ones_is_walked(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)

    def expire(root: Root) -> None:
        root.expires = fleet.now - DAY

    between = with_root(fleet, roles, expire)
    refused(trust, between, fleet, Code.TRUST_EXPIRED)

    def renew(root: Root) -> None:
        root.expires = fleet.now + 300 * DAY

    assert take(trust, with_root(fleet, between, renew), fleet).root_version == 3


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_role_may_be_signed_by_a_key_of_each_kind(fleet: Fleet, trust: Trust, kind: str) -> None:
    key, roles = getattr(CryptoSigner, f"generate_{kind}")(), newer(fleet)
    change = name_keys("timestamp", 1, key.public_key)

    assert take(trust, with_root(fleet, roles, change, timestamp=forged(roles.timestamp, key)), fleet).root_version == 2


def test_snapshots_and_timestamps_run_ahead_are_undone_by_new_keys(fleet: Fleet, trust: Trust) -> None:
    roles = newer(fleet)
    snapshot = forged(roles.snapshot, fleet.keys["snapshot"], version=10**6)
    stamp = forged(roles.timestamp, fleet.keys["timestamp"], version=10**6, snapshot_meta=MetaFile(10**6))
    take(trust, roles.model_copy(update={"snapshot": snapshot, "timestamp": stamp}), fleet)
    refused(trust, newer(fleet), fleet, Code.TRUST_ROLLBACK)
    for role in ("snapshot", "timestamp"):
        fleet.replace_key(role)
        fleet.rekey(role)

    assert take(trust, newer(fleet), fleet).timestamp_version < 10**6


def test_a_folder_of_metadata_with_no_root_is_begun_at_the_pinned_one(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    for path in trust._directory.glob("*-[ab]"):
        path.unlink()

    again = Trust(trust._directory, fleet.repository.root())
    assert again.current(now=fleet.now) is None
    assert take(again, newer(fleet), fleet).root_version == 1
