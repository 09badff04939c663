"""A hub serves the releases that it understands, beside one that a newer hub published."""

from datetime import UTC, datetime
from pathlib import Path

import msgpack

from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from schemas import codec
from schemas.names import sha256
from tests.hub.hubs import Fleet


def test_releases_are_found_beside_a_manifest_that_is_not_understood(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    manifest = fleet.publish("1.1.0")
    newer = msgpack.packb(codec._canonical({**msgpack.unpackb(codec.encode(manifest)), "version": "1.0.0", "explanation": "shap"}))
    fleet.repository.add_release("delay", "1.0.0", newer, team=fleet.team, now=datetime.now(UTC))

    found = Releases(fleet.repository, BlockStore(tmp_path / "blocks")).find(sha256(codec.encode(manifest)))

    assert found[1] == manifest
