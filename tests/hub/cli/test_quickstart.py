"""`fleetcast quickstart`: from nothing to an answer in one command, and a folder that can be used afterwards."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.hub.hubs import until
from tests.small_disk import small_disk

PROGRAM = str(Path(sys.executable).parent / "fleetcast")
Done = subprocess.CompletedProcess[str]


def run(*words: str | Path, seconds: float = 180, **environment: str) -> Done:
    command = [PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds, env={**os.environ, **environment})


def on(plant: Path, *words: str) -> Done:
    return run(*words, FLEETCAST_DIR=str(plant), FLEETCAST_PASSPHRASE_FILE=str(plant / "quickstart" / "passphrase"))


def of_folder(folder: Path) -> list[int]:
    """Process ids of what runs on a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "plant"
    for pid in of_folder(tmp_path):
        os.kill(pid, signal.SIGKILL)


# What it refuses


def test_a_folder_that_no_quickstart_made_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = run("quickstart", tmp_path)

    assert (done.returncode, [one.name for one in tmp_path.iterdir()]) == (6, ["mine"])
    assert "is not empty, and no quickstart made it: give a new folder" in done.stderr


def test_a_port_that_is_in_use_is_named_before_anything_is_made(plant: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("quickstart", plant, "--broker-port", str(port), "--json")

    assert (done.returncode, plant.exists()) == (8, False)
    assert json.loads(done.stdout)["error"]["code"] == "port.in_use"
    assert f"port {port} on 127.0.0.1 is in use" in done.stderr


@pytest.mark.slow
def test_a_disk_without_room_keeps_nothing_of_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        done = run("quickstart", disk / "plant")

        assert (done.returncode, list(disk.iterdir())) == (7, [])
    assert "Traceback" not in done.stderr


# What it makes. Each starts a hub and two nodes, so these run with `make test-quickstart`.


def begin(plant: Path, *more: str, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as file:
        return subprocess.Popen([PROGRAM, "quickstart", str(plant), *more], stdout=file, stderr=subprocess.STDOUT)


def end(process: "subprocess.Popen[bytes]", number: int) -> int:
    process.send_signal(number)
    return process.wait(60)


@pytest.mark.slow
def test_it_answers_and_ctrl_c_leaves_a_folder_that_can_be_used(plant: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = begin(plant, log=log)
    until("its answer", lambda: "They run until Ctrl-C" in log.read_text() or process.poll() is not None)
    assert "node-1 answered: arr_delay -0.60, by delay@1.0.0" in log.read_text()
    until("its addresses", lambda: "They run until Ctrl-C" in log.read_text())
    assert re.search(r"^console  http://127\.0\.0\.1:\d+$", log.read_text(), flags=re.MULTILINE)
    link = re.search(r"sign in to the console once, within 15 minutes: (http://\S+/login\?once=[\w-]{43})", log.read_text())
    assert link is not None
    assert b"Sign in as" in httpx.get(link[1], timeout=60).content
    second = run("quickstart", plant)
    nodes = json.loads(on(plant, "nodes", "--json").stdout)
    states = [one["state"] for one in json.loads(on(plant, "rollout", "status", "--json").stdout)]
    code = end(process, signal.SIGINT)

    assert (second.returncode, "another quickstart runs in" in second.stderr) == (6, True)
    assert ([one["node"] for one in nodes], states) == (["node-1", "node-2"], ["done"])
    assert (code, of_folder(plant)) == (0, [])
    assert log.read_text().endswith("The hub and the nodes have ended.\n")

    # The hub alone, as any fleet's, and commands on it.
    secret = {"FLEETCAST_PASSPHRASE_FILE": str(plant / "quickstart" / "passphrase")}
    hub = subprocess.Popen([PROGRAM, "hub", str(plant)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **secret})
    assert hub.stdout is not None
    assert b"fleet plant is at mqtt://127.0.0.1:" in hub.stdout.readline()
    assert on(plant, "keys", "show", "--check").returncode == 0
    alone = run("quickstart", plant)
    assert (alone.returncode, "hub of" in alone.stderr) == (6, True)
    assert end(hub, signal.SIGTERM) == 0

    # And again: it goes on, and takes nothing back.
    again = run("quickstart", plant, "--once", "--json")
    facts = json.loads(again.stdout)
    assert (again.returncode, facts["answer"]["model_version"], of_folder(plant)) == (0, "1.0.0", [])
    assert "it goes on where it was" in again.stderr
    assert "rollout start" not in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_one_that_is_killed_anywhere_is_followed_by_one_that_answers(seed: int, plant: Path, tmp_path: Path) -> None:
    process = begin(plant, log=tmp_path / "log")
    time.sleep(Random(seed).uniform(0.5, 12.0))
    end(process, signal.SIGKILL)
    until("the end of its children", lambda: not of_folder(plant))
    done = run("quickstart", plant, "--once")

    assert (done.returncode, "answered" in done.stdout) == (0, True), done.stderr
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_before_the_answer_ends_all_with_130(seed: int, plant: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = begin(plant, log=log)
    time.sleep(Random(seed).uniform(0.5, 12.0))
    code = end(process, signal.SIGINT)

    assert code == (0 if "They run until" in log.read_text() else 130)
    assert "Traceback" not in log.read_text()
    assert of_folder(plant) == []
    assert run("quickstart", plant, "--once").returncode == 0
