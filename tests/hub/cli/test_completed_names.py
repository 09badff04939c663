"""A shell completes what the fleet has: models, releases, nodes, labels, signals."""

import shutil
import time
from pathlib import Path

import pytest

from hub.database.rows import NodeRow
from hub.database.store import Store
from schemas import codec
from schemas.state import Profile, State
from tests.databases import url_of
from tests.hub.cli.fleets import Made, make, run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    found = make(tmp_path_factory.mktemp("made"), "delay", "weld")
    assert found.publish("1.0.0", "--reference", str(found.folder / "good.npz"), name="delay").returncode == 0
    store = Store(url_of(found.fleet / "hub.sqlite"))
    store.create()
    for name, site in (("gw-1", "jfk"), ("gw-2", "lga"), ("lab-1", "lab")):
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"site": site, "tier": "edge"})
        state = State(node=name, session=1, status="online", at=0, public_key=b"k", profile=profile)
        store.upsert_node(NodeRow(name, 1, "online", int(time.time()), codec.encode(state), b"k", "all"))
    return found


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("fleetcast releases ", ["delay", "weld"]),
        ("fleetcast rollout start d", ["delay@1.0.0"]),
        ("fleetcast rollout status ", ["delay", "weld"]),
        ("fleetcast nodes list gw", ["gw-1", "gw-2"]),
        ("fleetcast nodes forget l", ["lab-1"]),
        ("fleetcast nodes list --where s", ["site="]),
        ("fleetcast drift explain delay --signal x", [f"x{number}" for number in range(10)]),
        ("fleetcast history --model w", ["weld"]),
    ],
)
def test_a_shell_offers_what_the_fleet_has(made: Made, words: str, offered: list[str]) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_FLEETCAST_COMPLETE": "bash_complete"}

    printed = run(fleet=made.fleet, **asked).stdout.split()

    assert sorted(one.partition(",")[2] for one in printed) == offered


def test_where_there_is_no_fleet_nothing_is_offered_and_nothing_printed(tmp_path: Path, made: Made) -> None:
    shutil.copytree(made.fleet, tmp_path / "damaged")
    (tmp_path / "damaged" / "trust" / "metadata" / "root.json").unlink(missing_ok=True)
    (tmp_path / "damaged" / "hub.sqlite").write_bytes(b"no database")
    for folder in (tmp_path, tmp_path / "damaged"):
        asked = {"COMP_WORDS": "fleetcast nodes list gw", "COMP_CWORD": "3", "_FLEETCAST_COMPLETE": "bash_complete"}
        done = run(fleet=folder, **asked)
        assert (done.stdout.strip(), done.stderr) == ("", "")
