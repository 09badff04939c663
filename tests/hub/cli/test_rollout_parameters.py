"""Parameters by rollout: judged at the operator's desk, signed by a real hub, and told as nodes report them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.cli.errors import Exit
from hub.database.rows import NodeRow
from hub.database.store import Store
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.names import sha256
from schemas.parameters import Parameter, Setting
from schemas.rollout import Rollout
from schemas.state import Slot, State
from tests.databases import url_of
from tests.hub.cli.fleets import Done, Made, make
from tests.hub.cli.test_rollout import Hub
from tests.hub.queueing import queue

PARAMETERS = (
    Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0),
    Parameter(name="labels", goes_to="client", default={"cat": "cat", "dog": "dog"}),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("made"), "m")
    made.publish_as("1.0.0", made.folder / "good.onnx", parameters=PARAMETERS)
    made.publish_as("1.1.0", made.folder / "good.onnx")
    return made


@pytest.fixture
def hub(made: Made) -> Iterator[Hub]:
    with Hub(made) as running:
        yield running


def signed(made: Made) -> Rollout:
    document = Repository(made.fleet / "trust").rollout("m")
    assert document is not None
    return codec.decode(Rollout, document)


def ok(done: Done) -> Done:
    assert done.returncode == 0, done.stderr
    return done


def test_what_is_set_is_signed_and_moves_no_node_and_stays_within_its_map(made: Made, hub: Hub) -> None:
    ok(made.run("rollout", "start", "m@1.0.0", "--stages", "10,100", "--set", "threshold=0.7", "--set", "labels.cat=Katze"))
    first = signed(made)

    said = ok(made.run("rollout", "set", "m", "threshold=0.65", "labels.dog=Hund", "--json"))
    second = signed(made)
    ok(made.run("rollout", "set", "m", "--unset", "threshold"))
    third = signed(made)

    assert first.parameters == {"threshold": 0.7, "labels": {"cat": "Katze", "dog": "dog"}}
    assert second == first.model_copy(
        update={"serial": first.serial + 1, "parameters": {"threshold": 0.65, "labels": {"cat": "Katze", "dog": "Hund"}}}
    )
    assert third.parameters == {"labels": {"cat": "Katze", "dog": "Hund"}}
    assert "are now threshold=0.65, labels.cat=Katze, labels.dog=Hund" in json.loads(said.stdout)["text"]


def test_what_is_so_already_is_not_signed_again(made: Made, hub: Hub) -> None:
    ok(made.run("rollout", "start", "m@1.0.0", "--force", "--set", "threshold=0.7"))
    before = signed(made)

    done = ok(made.run("rollout", "set", "m", "threshold=0.7"))

    assert signed(made) == before
    assert "so already" in done.stdout


def test_a_release_that_follows_begins_with_its_own_values_and_that_is_told(made: Made, hub: Hub) -> None:
    ok(made.run("rollout", "start", "m@1.0.0", "--force", "--set", "threshold=0.7"))

    done = ok(made.run("rollout", "start", "m@1.1.0"))

    assert "warning: the previous rollout set parameters that this one does not set: threshold=0.7" in done.stderr
    assert signed(made).parameters is None


def test_a_hub_refuses_what_is_no_parameter_of_the_release_whoever_asks(made: Made, hub: Hub) -> None:
    ok(made.run("rollout", "start", "m@1.0.0", "--force"))
    store = Store(url_of(made.fleet / "hub.sqlite"))
    bodies = [
        {"version": "1.0.0", "parameters": {"threshold": 2.0}},
        {"version": "1.0.0", "parameters": {"treshold": 0.5}},
        {"version": "1.1.0", "parameters": {"threshold": 0.5}},
        {"version": "1.0.0", "parameters": 3},
    ]

    numbers = [queue(store, "set", "m", json.dumps(body)) for body in bodies]
    ok(made.run("rollout", "halt", "m"))  # answered after them

    answers = [store.command(number) for number in numbers]
    store.close()
    assert [answer and answer.code for answer in answers] == ["parameter.bounds", "parameter.unknown", "rollout.invalid", "rollout.invalid"]
    assert signed(made).parameters is None


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("start", "m@1.0.0", "--set", "threshold=1.5"), Exit.REFUSED, "expected 0 to 1, found 1.5 [parameter.bounds]"),
        (("start", "m@1.0.0", "--set", "treshold=0.5"), Exit.REFUSED, "expected threshold, labels, found treshold [parameter.unknown]"),
        (("start", "m@1.1.0", "--set", "threshold=0.5"), Exit.REFUSED, "expected none, found threshold [parameter.unknown]"),
        (("start", "m@1.0.0", "--set", "labels.cow=Kuh"), Exit.REFUSED, "one of cat, dog, found cow [parameter.bounds]"),
        (("start", "m@1.0.0", "--set", "threshold"), Exit.USAGE, "must be NAME=VALUE"),
        (("set", "nosuch", "threshold=0.5"), Exit.REFUSED, "there is no model 'nosuch'"),
        (("set", "m"), Exit.USAGE, "there is nothing to set"),
        (("set", "m", "threshold"), Exit.USAGE, "must be NAME=VALUE"),
    ],
)
def test_what_cannot_be_set_is_refused_at_once_and_never_queued(
    made: Made, arguments: tuple[str, ...], exit_code: Exit, words: str
) -> None:
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.create()
    before = len(store.open_commands())
    if arguments[0] == "set" and Repository(made.fleet / "trust").rollout("m") is None:
        with Hub(made):
            ok(made.run("rollout", "start", "m@1.0.0"))

    done = made.run("rollout", *arguments)

    assert done.returncode == exit_code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert len(store.open_commands()) == before
    store.close()


def test_without_a_rollout_there_is_nothing_to_set(tmp_path: Path) -> None:
    made = make(tmp_path, "m")

    done = made.run("rollout", "set", "m", "threshold=0.5")

    assert done.returncode == Exit.REFUSED
    assert "there is no rollout of m" in done.stderr


def reports(made: Made, node: str, release: bytes, *settings: Setting) -> None:
    """A node has said what is in force there."""
    slot = Slot(model="m", state="active", serving=release, serving_version="1.0.0", parameters=settings)
    now = int(time.time())
    state = State(node=node, session=1, status="online", at=now, slots=(slot,))
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.upsert_node(NodeRow(node, 1, "online", now, codec.encode(state), b"", "default"))
    store.close()


def row_of(done: Done) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def test_status_and_nodes_tell_what_nodes_have_in_force_and_where_a_sites_value_is_not_allowed(made: Made) -> None:
    with Hub(made):
        ok(made.run("rollout", "start", "m@1.0.0", "--force", "--set", "threshold=0.7"))
    release = sha256(Repository(made.fleet / "trust").manifest("m", "1.0.0"))
    reports(made, "gate-1", release, Setting("threshold", 0.7, "rollout"))
    reports(made, "gate-2", release, Setting("threshold", 0.9, "site"))
    reports(made, "gate-3", release, Setting("threshold", 0.7, "rollout", "parameter.bounds"))
    reports(made, "gate-4", bytes(32), Setting("threshold", 0.1, "site"))  # of another release: it says nothing of this rollout

    status = row_of(ok(made.run("rollout", "status", "m", "--json")))
    told = ok(made.run("rollout", "status", "m")).stdout
    one = ok(made.run("nodes", "gate-3")).stdout
    rows = {row["node"]: row["models"][0]["parameters"] for row in json.loads(ok(made.run("nodes", "--json")).stdout)}

    refused = [{"node": "gate-3", "code": "parameter.bounds"}]
    assert status["parameters"] == {"threshold": {"set": 0.7, "rollout": 2, "site": 1, "release": 0, "refused": refused}}
    assert "m: threshold=0.7 (in force on 2; 1 by their sites; the site's own is not allowed on gate-3)" in told.splitlines()
    assert "m: threshold=0.7 (rollout; the site's own value is not allowed: parameter.bounds)" in one
    assert rows["gate-2"] == [{"name": "threshold", "value": 0.9, "source": "site", "code": None}]
