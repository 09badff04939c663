"""`fleetcast status`: what a hub that runs has found wrong with itself is shown, and what one that was killed has left is not."""

import json
import time
from pathlib import Path

import pytest

from hub.cli.errors import Exit
from hub.database.store import Store
from hub.database.troubles import Trouble, Troubles
from hub.service.folder_lock import locked
from schemas.errors import Code
from tests.databases import only_sqlite, url_of
from tests.hub.cli.fleets import Made, make

WHY = "two hubs run with this fleet's keys: on plant-1 (pid 7) and on plant-2 (pid 8); this hub, which began later, signs nothing more"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path, "m")


def keep(made: Made, *found: Trouble) -> None:
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.open()
    Troubles(store.database).replace("hub", found)
    store.close()


@only_sqlite
def test_a_hub_that_stood_down_is_not_shown_as_healthy(made: Made) -> None:
    well = made.run("status")
    keep(made, Trouble("hub", str(Code.HUB_DUPLICATE), "", int(time.time()) - 60, WHY))
    gone = json.loads(made.run("status", "--json").stdout)
    (made.fleet / "hub.ready").write_text("{}")
    with locked(made.fleet):
        down, rows, hubs = made.run("status"), json.loads(made.run("status", "--json").stdout), made.run("hubs")

    assert "wrong" not in well.stdout
    assert (gone["hub_runs"], gone["troubles"]) == (False, [])
    assert down.returncode == Exit.OK
    assert "the hub here has stood down for another hub" in down.stdout
    assert f"wrong: {WHY} [hub.duplicate]" in down.stdout
    assert [(row["code"], row["look"]) for row in rows["troubles"]] == [("hub.duplicate", "fleetcast hubs")]
    assert hubs.returncode == Exit.REFUSED
    assert WHY in hubs.stderr


def test_status_names_access_lists_that_are_older_than_this_version(made: Made) -> None:
    settings = made.fleet / "fleet.toml"
    settings.write_text('broker_url = "mqtts://broker.example"\n' + settings.read_text())
    (made.fleet / "broker").mkdir(exist_ok=True)
    (made.fleet / "broker" / "acl").write_text("user hub\n")

    (row,) = json.loads(made.run("status", "--json").stdout)["troubles"]

    assert (row["code"], row["look"]) == ("access_list.outdated", "fleetcast access-list --write")
