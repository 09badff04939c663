"""`fleetcast access-list`: the lists that mosquitto needs, and one that an earlier version made."""

from pathlib import Path

import pytest

from hub.cli.errors import Exit
from hub.service.broker import access_lists
from schemas.topics import ROOT, access_list, consumer_access_list
from tests import brokers
from tests.hub.cli.fleets import Made, make
from tests.hub.hubs import Fleet, until


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path, "m")


def older(folder: Path) -> None:
    """Take the rule out that a version without settings of nodes did not have, and add an operator's own."""
    path = folder / "broker" / "acl"
    lines = [line for line in path.read_text().splitlines() if not line.endswith("/settings")]
    path.write_text("\n".join([*lines, "", "user dashboard", "topic read other/#"]) + "\n")


def test_lists_of_an_earlier_version_are_found_named_and_written_anew(made: Made) -> None:
    assert made.run("access-list", "--check").returncode == 0
    older(made.fleet)

    found = made.run("access-list", "--check")
    printed, consumers = made.run("access-list", "--bridge", "site-7").stdout, made.run("access-list", "--consumers").stdout
    written = made.run("access-list", "--write")

    assert found.returncode == Exit.REFUSED
    assert f"'pattern read {ROOT}/f/node/%u/settings' is missing" in found.stderr
    assert "`fleetcast access-list --write`" in found.stderr
    assert (printed, consumers) == (access_list("f", ["site-7"]), consumer_access_list("f"))
    assert written.stdout.split() == [str(made.fleet / "broker" / name) for name in ("acl", "acl-consumers")]
    assert made.run("access-list", "--check").returncode == 0
    assert made.run("access-list", "--check", "--write").returncode == Exit.USAGE


def test_a_change_of_settings_warns_where_mosquitto_would_keep_it_back(made: Made) -> None:
    older(made.fleet)
    quiet = made.run("nodes", "set", "n1", "cohort=x")
    settings = made.fleet / "fleet.toml"
    settings.write_text('broker_url = "mqtt://broker.example:1883"\n' + settings.read_text())

    warned = made.run("nodes", "set", "n1", "cohort=x")

    assert "access lists" not in quiet.stderr, "the embedded broker has none"
    assert "warning: the access lists in broker/ are older than this version" in warned.stderr


def test_a_hub_that_starts_beside_older_lists_notes_it(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    (fleet.directory / "broker").mkdir()
    (fleet.directory / "broker" / "acl").write_text(access_list(brokers.FLEET))
    older(fleet.directory)
    with brokers.running("embedded", tmp_path / "broker") as broker, fleet.hub(broker):
        until("the note", lambda: [one for one in fleet.store.events() if one.kind == "access_list.outdated"])

    assert access_lists.missing(fleet.directory, brokers.FLEET)
