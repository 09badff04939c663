"""The bytes of one move, of a day and of a release: what was fetched before is not charged again, and states are those of now."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.core.delivery.receipt_counts import Counts
from hub.core.rollouts import commands
from hub.database.rows import NodeRow, ReceiptRow
from hub.operations import planning
from hub.operations.byte_sums import DAY, of_day
from hub.operations.node_story import receipt_lines
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.release_bytes import release_bytes
from hub.settings import HubSettings
from schemas import codec
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.receipt import Evidence, Receipt, SealedReceipt
from schemas.state import Profile, Slot, State
from tests.hub.hubs import Fleet

FETCHED = Evidence(bytes_planned=800, bytes_received=700, bytes_reused=100)


class Site:
    """A fleet of which one node has signed what is said here."""

    def __init__(self, folder: Path) -> None:
        fleet = Fleet(folder)
        self.releases = {version: fleet.publish(version, seed) for seed, version in enumerate(("1.0.0", "1.1.0"))}
        self.opened = OpenedFleet(fleet.directory, HubSettings(fleet="plant"), fleet.store, fleet.repository)
        self.sequence = 0

    def sign(self, release: Manifest, evidence: Evidence, *, at: int, outcome: str = "serving") -> None:
        self.sequence += 1
        digest = sha256(codec.encode(release))
        fields = {"node": "n1", "sequence": self.sequence, "at": at, "outcome": outcome, "model": "delay", "version": release.version}
        body = codec.encode(Receipt.model_validate({**fields, "digest": digest, "evidence": evidence}))
        sealed = codec.encode(SealedReceipt(body=body, signature=b"s"))
        row = ReceiptRow("n1", self.sequence, at, at, outcome, "delay", release.version, digest, at, "", "", sealed)  # type: ignore[arg-type]
        self.opened.store.add_receipts([row])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A node that has fetched 1.0.0 on one day and 1.1.0 on the next, and has gone back to 1.0.0, which was on its disk."""
    found = Site(tmp_path / "fleet")
    found.sign(found.releases["1.0.0"], FETCHED, at=100)
    found.sign(found.releases["1.1.0"], Evidence(bytes_planned=900, bytes_received=900), at=DAY + 100)
    found.sign(found.releases["1.0.0"], FETCHED, at=DAY + 200)
    yield found
    found.opened.store.close()


def test_a_receipt_is_shown_with_the_bytes_of_its_own_move(site: Site) -> None:
    rows = site.opened.store.receipts(node="n1")

    assert [(line.version, line.moved) for line in receipt_lines(site.opened.store, rows, b"")] == [
        ("1.0.0", Counts()),
        ("1.1.0", Counts(planned=900, received=900)),
        ("1.0.0", Counts(planned=800, received=700, reused=100)),
    ]
    assert receipt_lines(site.opened.store, rows[:1], b"")[0].moved == Counts(), "also where the page ends before the first one"


def test_a_day_is_charged_only_for_what_was_fetched_on_it(site: Site) -> None:
    first, second = (of_day(site.opened.store.database, {}, day=day, now=9 * DAY) for day in (0, DAY))

    assert [(one.release, one.received, one.reused) for one in first.transfers] == [("delay@1.0.0", 700, 100)]
    assert [(one.release, one.received) for one in second.transfers] == [("delay@1.1.0", 900)]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, Counts(8, 5, 1), Counts(8, 5, 1)),
        (Counts(8, 5, 1), Counts(10, 7, 1), Counts(4, 2, 0)),
        (Counts(8, 5, 1), Counts(8, 3, 0), Counts(8, 3, 0)),  # Its store was lost, and it counts anew.
    ],
)
def test_a_count_goes_on_from_the_one_before(before: Counts | None, now: Counts, expected: Counts) -> None:
    assert now.since(before) == expected


def test_a_release_is_serving_only_where_it_serves_now(site: Site) -> None:
    def states(version: str) -> list[str]:
        return [row["state"] for row in release_bytes(site.opened, "delay", version)]

    assert (states("1.0.0"), states("1.1.0")) == (["serving"], ["served"])
    site.sign(site.releases["1.1.0"], Evidence(), at=DAY + 300)
    assert (states("1.0.0"), states("1.1.0")) == (["served"], ["serving"])
    site.sign(site.releases["1.1.0"], Evidence(), at=DAY + 400, outcome="rolled_back")
    assert (states("1.0.0"), states("1.1.0")) == (["served"], ["rolled_back"])


def test_what_is_on_a_nodes_disk_is_charged_by_no_question(site: Site) -> None:
    serving, other = (sha256(codec.encode(site.releases[version])) for version in ("1.0.0", "1.1.0"))
    profile = Profile(arch="x86_64", cores=1, memory_bytes=2**30, labels={})

    def state(**slot: Any) -> State:
        slots = (Slot(model="delay", state="active", serving=serving, serving_version="1.0.0", **slot),)
        return State(node="n1", session=1, status="online", at=1, public_key=b"k", profile=profile, link="roaming", slots=slots)

    without, holding = state(), state(last_good=other)
    asked = commands.read_as(commands.Start, json.dumps({"version": "1.1.0", "stages": [100]}))

    def planned(one: State) -> int:
        site.opened.store.upsert_node(NodeRow(one.node, 1, "online", 1, codec.encode(one), b"k", "default"))
        return int(planning.plan(site.opened, "delay", asked)[0]["bytes_planned"])

    for one in (without, holding):
        found = planning.fetched_by(site.opened, "delay", "1.1.0", [one])
        assert found.total_bytes == found.roaming_bytes == planned(one)
    assert planned(without) > planned(holding) == 0
