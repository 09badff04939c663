"""Run the device's own command to prove a release under a profile's limits, in a process of its own, and read its result.

The hub runs no code of the node's: it writes the files as a node would, starts `fleetcast-node prove`, and always ends it.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pydantic import ValidationError

from fleetcast import disk_room, interrupts
from hub.core.publish.check_rules import DeviceProfile, LimitedBy
from hub.publish.memory_limit import inside, memory_cgroup
from schemas.errors import Code
from schemas.limits import TEXT_MAX
from schemas.manifest import Manifest, blocks_of
from schemas.proof import Proof

PROVER: Final = "fleetcast-node"
# Time for two minutes of loading, and for warming up and measuring a model that takes a minute per request.
PROVE_SECONDS_MAX: Final = 900.0
PASSED, NOT_INSTALLED, REFUSED = 0, 2, 3  # Exit codes of the prover.
INHERITED: Final = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")


class Absent(Exception):
    """Signal that the command which proves a release is not installed here."""


class Blocks(Protocol):
    """Read a release's blocks: hub.publish.block_store.BlockStore."""

    def read(self, digest: bytes) -> bytes:
        """Return a block, verified."""


@dataclass(frozen=True, slots=True)
class Tried:
    """Hold a proof and the mechanism that limited its memory."""

    proof: Proof
    limited_by: LimitedBy


def prover() -> list[str]:
    """Return the command that proves: the one installed beside this program, else the first on the path.

    Raises:
        Absent: there is no such command.
    """
    beside = Path(sys.executable).with_name(PROVER)
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(PROVER)
    if found is None:
        raise Absent(
            f"{PROVER} is neither beside {sys.executable} nor on the PATH; install 'fleetcast[hub,node]' where releases are checked"
        )
    return [found]


def lay_out(manifest: Manifest, variant: str, blocks: Blocks, folder: Path) -> None:
    """Write a variant's files as they are on a device.

    Raises:
        Refused: the store has lost a block, or the disk has no room.
        Unreachable: the disk does not answer.
    """
    for file in manifest.files_of(variant):
        path = folder / file.path
        with disk_room.refusing(f"no room in {folder} for {file.path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                for block in blocks_of(file, lambda part: blocks.read(part.digest)):
                    target.write(blocks.read(block.digest))


def run(
    command: list[str], manifest: Path, files: Path, *, variant: str, profile: DeviceProfile, seconds_max: float = PROVE_SECONDS_MAX
) -> Tried:
    """Prove a variant under a profile's limits.

    Raises:
        Absent: the prover lacks what it needs.
    """
    asked = ["prove", "--json", "--manifest", str(manifest), "--files", str(files), "--variant", variant]
    asked += ["--threads", str(profile.threads), "--cores", str(profile.cores), "--memory-bytes", str(profile.model_bytes)]
    with memory_cgroup(profile.memory_bytes) as cgroup:
        words = [*command, *asked] if cgroup is None else inside(cgroup, [*command, *asked])
        proof = proof_of(words, seconds_max)
    return Tried(proof, "rlimit" if cgroup is None else "cgroup")


def proof_of(words: list[str], seconds_max: float) -> Proof:
    """Run a prover to its end, without any of our environment that opens keys. A crash is a result as well.

    Raises:
        Absent: the prover lacks what it needs.
    """
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    with ExitStack() as stack:
        with interrupts.held():  # A prover that was started is one that is ended.
            process = stack.enter_context(
                subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
                )
            )
            stack.callback(_end, process)  # This also runs after Ctrl-C.
        try:
            output, complaint = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            return Proof(passed=False, code=str(Code.WORKER_HUNG), reason=f"it had not proved itself after {seconds_max:g} seconds")
    if process.returncode == NOT_INSTALLED:
        raise Absent(_last_line(complaint))
    if process.returncode in {PASSED, REFUSED}:
        with suppress(ValidationError):
            return Proof.model_validate_json(output)
    status = process.returncode
    ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}: {_last_line(complaint)}"
    return Proof(passed=False, code=str(Code.WORKER_CRASHED), reason=f"{PROVER} prove was {ended}"[: 4 * TEXT_MAX])


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the prover and the worker that it started, which share a process group, unless it has ended by itself."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["it printed nothing"])[-1][:TEXT_MAX]
