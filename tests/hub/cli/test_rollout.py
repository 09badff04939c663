"""`hub` and `rollout` with a real hub and its own broker; nodes and a rollout that comes to its end are in tests/e2e."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.cli.errors import Exit
from hub.database.store import Store
from hub.service.folder_lock import locked
from tests import warm
from tests.databases import url_of
from tests.hub.cli.fleets import BIN, Made, make, run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("made"), "m")
    assert made.publish("1.0.0").returncode == 0
    return made


class Hub:
    """`fleetcast hub` as a process, which has said that it is ready."""

    def __init__(self, made: Made) -> None:
        self.process = warm.start("fleetcast", "hub", made.fleet, "--passphrase-file", made.secret, "--json-logs")
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            self.process.kill()
        self.ready = json.loads(line)

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(100)


@pytest.fixture
def hub(made: Made) -> Iterator[Hub]:
    with Hub(made) as running:
        yield running


def start(made: Made, *more: str) -> "subprocess.CompletedProcess[str]":
    return made.run("rollout", "start", "m@1.0.0", *more)


def test_without_a_hub_a_rollout_is_queued_and_json_says_so(made: Made) -> None:
    done = start(made, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "queued"
    assert "No hub runs" in done.stderr


def test_without_a_hub_waiting_ends_in_a_timeout_not_in_a_halt(made: Made) -> None:
    done = start(made, "--wait", "--timeout-seconds", "1")

    assert done.returncode == Exit.TIMEOUT, done.stderr
    assert "no hub has answered" in done.stderr


def test_a_hub_that_runs_and_does_not_answer_is_named_with_what_is_likely(made: Made) -> None:
    (made.fleet / "hub.ready").write_text("{}")
    with locked(made.fleet):  # This process is no hub, and takes up nothing.
        done = start(made, "--wait", "--timeout-seconds", "1")

    assert done.returncode == Exit.TIMEOUT, done.stderr
    assert "uses another database than this command" in done.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--stages", "50,10"), "rise"),
        (("--stages", "10,50"), "end at 100"),
        (("--receipts-min", "nan"), "receipts_ratio_min"),
        (("--label", "a key=b"), "labels"),
        (("--label", "site=a"), "none is known yet: `fleetcast nodes`"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused_at_once_and_never_queued(made: Made, more: tuple[str, ...], words: str) -> None:
    store = Store(url_of(made.fleet / "hub.sqlite"))
    before = len(store.open_commands())

    done = start(made, *more)

    assert done.returncode == Exit.REFUSED, done.stderr
    assert words in done.stderr
    assert len(store.open_commands()) == before
    store.close()


@pytest.mark.parametrize("verb", ["halt", "resume", "back", "status"])
def test_a_model_that_is_not_there_is_refused_by_every_verb(made: Made, verb: str) -> None:
    done = made.run("rollout", verb, "nosuch")

    assert done.returncode == Exit.REFUSED
    assert "'nosuch'; there are m" in done.stderr


def test_a_running_hub_answers_every_verb(made: Made, hub: Hub) -> None:
    assert hub.ready["pid"] == hub.process.pid
    assert hub.ready["broker_url"].startswith("mqtt://127.0.0.1:")

    started = json.loads(start(made, "--stages", "10,100", "--supersede", "--json").stdout)
    unsaid = start(made)
    waited = start(made, "--supersede", "--wait", "--timeout-seconds", "5")  # in which a hub obeys, though it has much to do
    halted = json.loads(made.run("rollout", "halt", "m", "--json").stdout)
    status = json.loads(made.run("rollout", "status", "m", "--json").stdout)
    twice = made.run("rollout", "halt", "m", "--json")
    resumed = made.run("rollout", "resume", "m", "--deployment", "default")
    retried = made.run("rollout", "retry", "m")
    approved = made.run("rollout", "approve", "m")
    back = made.run("rollout", "back", "m")

    assert (started["state"], halted["state"]) == ("done", "done")
    assert "stages 10 %, 100 %" in started["text"]
    assert unsaid.returncode == Exit.REFUSED
    assert "still being rolled out, at 10 % of its nodes" in unsaid.stderr
    assert waited.returncode == Exit.TIMEOUT
    assert "no node is known" in waited.stderr
    assert [(row["state"], row["version"]) for row in status] == [("halted", "1.0.0")]
    assert twice.returncode == Exit.REFUSED
    assert json.loads(twice.stdout)["error"]["code"] == "rollout.invalid"
    assert approved.returncode == Exit.REFUSED
    assert "waits for no approval" in approved.stderr
    assert retried.returncode == Exit.REFUSED
    assert "no node has failed" in retried.stderr
    assert [one.returncode for one in (resumed, back)] == [0, 0]
    assert "to no release" in back.stdout


def test_who_waits_for_a_rollout_that_is_halted_is_told_by_the_exit_code(made: Made, hub: Hub) -> None:
    command = [str(BIN / "fleetcast"), "rollout", "start", "m@1.0.0", "--wait", "--timeout-seconds", "200"]
    waiting = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "FLEETCAST_DIR": str(made.fleet)}
    )
    assert waiting.stdout is not None
    while "running" not in waiting.stdout.readline():
        assert waiting.poll() is None

    made.run("rollout", "halt", "m", "--actor", "ada")

    _, error = waiting.communicate(timeout=200)
    assert waiting.returncode == Exit.HALTED
    assert "halted by ada" in error


def test_what_was_queued_is_done_when_a_hub_comes(made: Made) -> None:
    number = json.loads(start(made, "--json").stdout)["command"]

    with Hub(made):
        waited = start(made, "--json")  # commands are answered in order
    store = Store(url_of(made.fleet / "hub.sqlite"))
    answer = store.command(number)
    store.close()

    assert waited.returncode == 0, waited.stderr
    assert answer is not None
    assert answer.state == "done"


def test_publishing_beside_a_running_hub_is_announced(made: Made, hub: Hub) -> None:
    assert json.loads(made.publish("1.1.0").stdout)["announced"] is True


def test_a_second_hub_in_the_same_folder_is_refused_and_harms_nothing(made: Made, hub: Hub) -> None:
    second = made.run("hub", str(made.fleet))

    assert second.returncode == Exit.CONFLICT
    assert f"another hub runs in {made.fleet} (process {hub.process.pid}): use it, or end it first" in second.stderr
    assert (made.fleet / "hub.ready").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_hub_ends_well_by_a_signal(made: Made, number: int) -> None:
    with Hub(made) as running:
        assert running.stop(number) == 0
    assert not (made.fleet / "hub.ready").exists()


def test_a_hub_with_a_wrong_passphrase_does_not_start(made: Made, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong\n")

    done = run("hub", str(made.fleet), "--passphrase-file", str(tmp_path / "wrong"))

    assert done.returncode == Exit.KEY
    assert "passphrase" in done.stderr
