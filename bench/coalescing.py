"""How often a block is published for a wave of nodes that start within a minute of each other: real hub, real mosquitto."""

import tempfile
from pathlib import Path

from sqlalchemy import create_engine, text

from bench.delivery import _Fleet, _mosquitto
from bench.figures import Figure
from bench.light import Errand, fetch
from hub.publish.block_store import BlockStore
from hub.service.rollouts.release_lookup import Releases
from hub.signing.tuf_repository import Repository
from node.core.delivery.transfer import pieces
from schemas.encoding import DECODABLE
from schemas.names import sha256

NODES = (1, 10, 100, 1000)
SPREAD_SECONDS = 60.0
BLOCKS, BLOCK_BYTES = 16, 20_000  # a thousand nodes take 320 MB of it


def measure() -> list[Figure]:
    """One release a wave, so that nothing is left at the broker from the one before."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name, _mosquitto(Path(name)) as port:
        fleet = _Fleet(Path(name), port)
        fleet.begin()
        for number, nodes in enumerate(NODES):
            errand = publish(fleet, f"1.{number}.0", blocks=BLOCKS, block_bytes=BLOCK_BYTES)
            before = published(fleet)
            found = fetch(errand, nodes, spread_seconds=SPREAD_SECONDS if nodes > 1 else 0.0)
            ratio = (published(fleet) - before) / len(errand.pieces)
            payload_bytes = sum(piece.payload.bytes for piece in errand.pieces)
            figures.append(
                Figure(
                    f"delivery.publishes_per_block.{nodes}",
                    ratio,
                    f"publishes a block, {nodes} nodes in {SPREAD_SECONDS:.0f} s",
                    "<= 1.05",
                    "received over needed bytes",
                    found.received_bytes / (nodes * payload_bytes),
                )
            )
        fleet.stop()
    return figures


def publish(fleet: _Fleet, version: str, *, blocks: int, block_bytes: int, name: str = "m") -> Errand:
    """A release of a file that does not compress, and what a node fetches of it."""
    from numpy.random import default_rng

    path = fleet.folder / f"{version}.bin"
    path.write_bytes(default_rng(sum(map(ord, version))).bytes(blocks * block_bytes))
    fleet.cli("publish", str(path), "--name", name, "--version", version, "--block-bytes", str(block_bytes), *fleet.secret)
    repository = Repository(fleet.folder / "fleet" / "trust")
    digest = sha256(repository.manifest(name, version))
    lists = Releases(repository, BlockStore(fleet.folder / "fleet" / "blocks")).lists(digest, "default")
    return Errand(fleet.port, "bench", digest, "default", pieces([lists.blocks], DECODABLE))


def published(fleet: _Fleet) -> int:
    """How many publishes of blocks the hub has counted."""
    engine = create_engine(f"sqlite:///{fleet.folder / 'fleet' / 'hub.sqlite'}")
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT coalesce(sum(count), 0) FROM publishes")).scalar_one())
