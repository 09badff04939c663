"""`fleetcast hubs`, and commands of a fleet whose metadata is in its database."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hub.cli.errors import Exit
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.release_inputs import block_bytes_for
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas.errors import Refused
from schemas.limits import BLOCK_BYTES_MAX, HEADER_BYTES
from tests import warm
from tests.brokers import Broker, Mosquitto
from tests.databases import needs_postgresql
from tests.hub.apart import SharedFleet
from tests.hub.hubs import until

pytestmark = [needs_postgresql, pytest.mark.postgres]


@pytest.fixture
def shared(tmp_path: Path, mosquitto: Broker) -> SharedFleet:
    return SharedFleet.make(tmp_path / "fleet", mosquitto)


def hubs(fleet: SharedFleet, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return warm.run("fleetcast", "hubs", "--dir", fleet.directory, *arguments)


def status_of(fleet: SharedFleet) -> Any:
    return json.loads(warm.run("fleetcast", "status", "--dir", fleet.directory, "--json").stdout)


def test_hubs_lists_who_leads_and_names_a_part_that_nobody_has(shared: SharedFleet) -> None:
    shared.publish("1.0.0")
    with shared.running("controller"):
        lacking = hubs(shared)
        ill = warm.run("fleetcast", "status", "--dir", shared.directory, "--json")
        said = warm.run("fleetcast", "status", "--dir", shared.directory)
        with shared.running("ingest", shard="1/1"), shared.running("blocks", name="one"):
            well = until("nothing wrong", lambda: row if not (row := status_of(shared))["troubles"] else None)
            whole = until("both", lambda: row if (row := hubs(shared, "--json")).returncode == 0 else None)
        models = warm.run("fleetcast", "releases", "--dir", shared.directory, "--json")
    gone = hubs(shared)

    assert lacking.returncode == Exit.REFUSED
    assert "no process with the role ingest runs" in lacking.stderr
    assert "no process with the role blocks runs" in lacking.stderr
    assert {row["code"]: row["look"] for row in json.loads(ill.stdout)["troubles"]} == dict.fromkeys(
        ("role.missing", "shard.gap"), "fleetcast hubs"
    )
    assert (ill.returncode, said.returncode, well["hub_runs"]) == (0, 0, True)
    assert "a hub runs here, and 2 things of its own are wrong" in said.stdout
    assert "wrong: no process with the role blocks runs" in said.stdout
    rows = {row["name"]: row for row in json.loads(whole.stdout)}
    assert (rows["controller"]["leads"], rows["ingest-1-of-1"]["leads"], rows["ingest-1-of-1"]["shard"]) == (True, False, "1/1")
    assert [row["version"] for row in json.loads(models.stdout)] == ["1.0.0"]
    assert "no process leads; controller did last" in gone.stderr


def test_a_publisher_elsewhere_cuts_blocks_as_the_brokers_of_all_processes_take_them(
    shared: SharedFleet, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    mosquitto.stop()
    mosquitto.configure("max_packet_size 16384")
    mosquitto.start()
    other = shared.copy(tmp_path / "other")
    fleet = OpenedFleet(other, load(other), shared.store, Repository(other / "trust"))
    assert block_bytes_for(fleet, None) == BLOCK_BYTES_MAX  # No process runs anywhere.
    with shared.running("blocks", name="one"):
        found = until("the limit", lambda: size if (size := block_bytes_for(fleet, None)) < BLOCK_BYTES_MAX else 0)
        with pytest.raises(Refused, match="15872"):
            block_bytes_for(fleet, 16_000)
        assert not list(other.glob("*.ready"))

    assert found == 16384 - HEADER_BYTES


def test_roles_that_make_no_sense_are_refused_before_a_passphrase_is_asked_for(shared: SharedFleet) -> None:
    for arguments, words in (
        (("--roles", "ingest,cook"), "ingest,controller,blocks,web"),
        (("--roles", "web,web"), "each once"),
        (("--roles", "ingest", "--shard", "3/2"), "shard '3/2' must look like 2/3"),
        (("--roles", "web", "--shard", "1/2"), "shard 1/2 is of the role ingest"),
        (("--name", "Ä"), "lower-case"),
    ):
        done = warm.run("fleetcast", "hub", shared.directory, *arguments)
        assert done.returncode in {Exit.USAGE, Exit.REFUSED}, done.stderr
        assert words in done.stderr
