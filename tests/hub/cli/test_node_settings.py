"""`nodes label`, `set` and `settings` as operators run them: what they announce, what they queue, and how they end."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hub.cli.errors import Exit
from hub.core.nodes.device_settings import SetNodeSettings, read
from hub.database.node_commands import NodeCommands
from hub.database.rows import NodeRow
from hub.database.store import Store
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.device_settings import DeviceSettings, LinkBudget
from schemas.rollout import ReleaseRef, Rollout
from schemas.state import Profile, SettingsInForce, State
from tests.databases import url_of
from tests.hub.cli.fleets import Made, copied, make


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"), "m")


@pytest.fixture
def made(template: Made, tmp_path: Path) -> Made:
    """A fleet of the test's own, with two nodes in ring main and one that accepts no labels."""
    copy = copied(template, tmp_path / "made")
    store = opened(copy)
    for name, settings in (("gw-1", None), ("gw-2", None), ("gw-3", SettingsInForce(serial=2, ignored=("labels",)))):
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"ring": "main"})
        state = State(node=name, session=1, status="online", at=0, public_key=b"key", cohort="all", profile=profile, settings=settings)
        store.upsert_node(NodeRow(name, 1, "online", int(time.time()), codec.encode(state), b"key", "all"))
    return copy


def opened(made: Made) -> Store:
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.create()
    return store


def queued(made: Made) -> SetNodeSettings:
    command = NodeCommands(opened(made).database).oldest_open()
    assert command is not None
    assert command.actor == "ada"
    return read(command.body)


def test_labels_are_queued_and_who_will_decide_is_announced(made: Made) -> None:
    repository, rollouts = Repository(made.fleet / "trust"), load_signer(made.fleet / "online" / "rollouts.pem", b"test")
    rollout = Rollout(
        model="m",
        serial=1,
        release=ReleaseRef("1.1.0", bytes(32)),
        state="running",
        stages=(100,),
        salt=bytes(16),
        labels={"ring": "canary"},
        started=1,
    )
    repository.set_rollout("m", codec.encode(rollout), rollouts=rollouts, now=datetime.now(UTC))

    done = made.run("nodes", "label", "--where", "ring=main", "ring=canary", "old-", "--actor", "ada", "--json")

    assert done.returncode == Exit.OK, done.stderr
    found = json.loads(done.stdout)
    assert (found["state"], found["nodes"]) == ("queued", 3)
    assert [(one["node"], one["before"], one["after"]) for one in found["moves"]] == [
        ("gw-1", None, "ring-canary"),
        ("gw-2", None, "ring-canary"),
    ]
    assert "3 of the 3 nodes that 'ring=main' matches" in done.stderr
    assert "m: for 2 nodes deployment ring-canary (1.1.0) will decide; none decides now" in done.stderr
    assert "1 node accepts no labels from the hub" in done.stderr
    assert (queued(made).labels, queued(made).unset) == ({"ring": "canary"}, ("label.old",))


def test_settings_are_read_from_their_keys(made: Made) -> None:
    words = (
        "cohort=nyc",
        "telemetry=off",
        "display-name=Gate 17",
        "budget.metered.bytes-day-max=2000000",
        "budget.metered.hours=22:00-05:00",
    )
    done = made.run("nodes", "set", "gw-1", *words, "--unset", "budget.roaming.full-download", "--actor", "ada")

    assert done.returncode == Exit.OK, done.stderr
    found = queued(made)
    assert (found.node, found.cohort, found.telemetry, found.display_name) == ("gw-1", "nyc", False, "Gate 17")
    assert found.budgets == {"metered": LinkBudget(bytes_day_max=2_000_000, hours="22:00-05:00")}
    assert found.unset == ("budget.roaming.full_download",)


def test_what_is_set_is_shown_beside_what_is_in_force(made: Made) -> None:
    rollouts = load_signer(made.fleet / "online" / "rollouts.pem", b"test")
    document = DeviceSettings(node="gw-3", serial=3, expires=2_000_000_000, labels={"ring": "canary"}, telemetry=False)
    Repository(made.fleet / "trust").set_device_settings({"gw-3": codec.encode(document)}, rollouts=rollouts)

    found = json.loads(made.run("nodes", "settings", "gw-3", "--json").stdout)
    text = made.run("nodes", "settings", "gw-3").stdout

    assert (found["serial"], found["serial_in_force"], found["state"], found["ignored"]) == (3, 2, "not taken yet", ["labels"])
    assert found["set"] == {"labels": {"ring": "canary"}, "telemetry": False}
    assert "not taken yet" in text
    assert json.loads(made.run("nodes", "gw-3", "--json").stdout)["settings_ignored"] == ["labels"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("label",), "which nodes"),
        (("label", "gw-1"), "at least one label"),
        (("label", "gw-1", "ring"), "KEY=VALUE or KEY-"),
        (("label", "gw-1", "ring=a", "ring-"), "only one of the two"),
        (("label", "gw-1", "--where", "ring=main", "x=y"), "not both"),
        (("label", "gw-1", "a b=c"), "labels"),
        (("label", "gw-1", "arch=x"), "arch"),
        (("label", "--where", "ring=typo", "x=y"), "matches none of 3"),
        (("label", "--where", "ring in (", "x=y"), "selector"),
        (("set", "gw-1"), "at least one setting"),
        (("set", "gw-1", "colour=red"), "colour"),
        (("set", "gw-1", "label.ring=red"), "nodes label"),
        (("set", "gw-1", "telemetry=maybe"), "on or off"),
        (("set", "gw-1", "budget.metered.colour=red"), "bytes-day-max"),
        (("set", "gw-1", "budget.wifi.hours=22:00-05:00"), "wifi"),
        (("set", "gw-1", "budget.metered.hours=26:00-05:00"), "hours"),
        (("set", "gw-1", "budget.metered.bytes-day-max=-1"), "whole number"),
        (("set", "gw-1", "--unset", "everything"), "everything"),
        (("set", "Not A Name", "cohort=x"), "Not A Name"),
        (("settings", "unknown"), "unknown"),
    ],
)
def test_what_makes_no_sense_is_refused_and_queues_nothing(made: Made, arguments: tuple[Any, ...], named: str) -> None:
    done = made.run("nodes", *arguments)

    assert done.returncode != Exit.OK
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert NodeCommands(opened(made).database).oldest_open() is None
