"""Real commands, interrupted at many moments: each ends with 130, and the fleet's folder is whole after it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from hub.publish.block_store import BlockStore
from hub.publish.release_blocks import Payloads
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.manifest import Manifest
from tests.hub.cli.fleets import Made, make

SEED = int(os.environ.get("INTERRUPTS_SEED", "1"))
MOMENTS = int(os.environ.get("INTERRUPTS", "12"))  # of each command
# The command as it is installed; it closes a pipe when the interpreter is up and its own code begins, from which on Ctrl-C is ours.
PROGRAM = "import os, sys; from hub.__main__ import main; os.close(int(sys.argv.pop(1))); main()"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("pristine"), "m")
    done = made.publish("1.0.0", "--reference", str(made.folder / "good.npz"))
    assert done.returncode == 0, done.stderr
    return made


def interrupted(made: Made, words: list[str], after_seconds: float) -> tuple[int, str, float]:
    """How the command ended, what it printed, and what it cost in CPU seconds; an endless `after_seconds` is no Ctrl-C."""
    reader, writer = os.pipe()
    environment = {**os.environ, "FLEETCAST_DIR": str(made.fleet), "FLEETCAST_PASSPHRASE_FILE": str(made.secret)}
    command = [sys.executable, "-c", PROGRAM, str(writer), *words]
    said = made.folder / "said"
    with said.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, pass_fds=[writer], cwd=made.folder, env=environment)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    if after_seconds < float("inf"):
        time.sleep(after_seconds)
        os.kill(process.pid, signal.SIGINT)  # Not send_signal, which may reap it.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, said.read_text(), used.ru_utime + used.ru_stime


def check_whole(made: Made) -> None:
    """Every release that is signed has its blocks, there are no others, and no file was left half-way."""
    repository, blocks = Repository(made.fleet / "trust"), BlockStore(made.fleet / "blocks")
    needed: set[bytes] = set()
    for name in repository.listed():
        found = Payloads.of(codec.decode(Manifest, repository.manifest(*name)), blocks)
        needed |= found.files | found.lists
    assert set(blocks.digests()) == needed
    assert [path for path in made.fleet.rglob("*") if path.name.endswith(".partial")] == []


COMMANDS: dict[str, list[str]] = {
    "publish": ["publish", "good.onnx", "--name", "m", "--version", "1.1.0", "--reference", "good.npz"],
    "check": ["check", "m@1.0.0", "--profile", "gateway"],
    "rollout": ["rollout", "start", "m@1.0.0", "--allow-empty"],
    "rotate": ["keys", "rotate", "targets", "timestamp"],
    "team": ["keys", "rotate", "team", "--keep-all"],
    "remove": ["releases", "remove", "m@1.0.0", "--yes"],
    "minimum": ["keys", "minimum", "m@1.0.0"],
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_at_any_moment_ends_a_command_with_130_and_whole(name: str, pristine: Made, tmp_path: Path) -> None:
    def copy(number: int) -> Made:
        shutil.copytree(pristine.folder, tmp_path / str(number))
        return Made(tmp_path / str(number))

    began = time.monotonic()
    whole, said, cost = interrupted(copy(0), COMMANDS[name], float("inf"))
    seconds = time.monotonic() - began
    assert whole == 0, said
    rng = Random(f"{SEED} {name}")
    for number in range(1, MOMENTS + 1):
        moment = rng.uniform(0.0, seconds)
        made = copy(number)
        code, said, used = interrupted(made, COMMANDS[name], moment)
        where = f"{name} after {moment:.3f} s of {seconds:.1f}, seed {SEED}: {said}"
        assert code in {0, 130}, where  # 0: it was done before
        assert not any(word in said for word in ("Traceback", "bug in fleetcast", "KeyboardInterrupt")), where
        assert used < 1.2 * cost, where  # It did not go on, and did nothing twice.
        check_whole(made)
        again = made.run("keys", "show", "--check")
        assert (again.returncode, "another key" in again.stdout) == (0, False), again.stdout
        shutil.rmtree(made.folder)
