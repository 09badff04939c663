"""Asks a model its golden inputs through the device's own command, which has the runtimes that a hub does not have."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hub.core import release as core
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Manifest

COMMAND = "fleetcast-node"
SECONDS_MAX = 1800.0  # a language model of gigabytes is loaded twice and answers a few prompts
OUTPUT = "output."
INHERITED = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")  # nothing that opens keys reaches a process that runs a model


def answers(manifest: Manifest, folder: Path) -> Mapping[str, NDArray[Any]]:
    """What the release's first build answers to its golden inputs, by output; its files lie in the folder as a device has them.

    Raises:
        Refused: RUNTIME_ABSENT: there is no such command here; or why the model could not be asked, with the device's own code.
    """
    command = shutil.which(COMMAND, path=str(Path(sys.executable).parent)) or shutil.which(COMMAND)
    if command is None:
        expected = f"{COMMAND} (pip install 'fleetcast[node]'), or answers in the golden file"
        raise mismatch(Code.RUNTIME_ABSENT, "what asks the model its golden inputs", expected=expected, actual="neither")
    with tempfile.TemporaryDirectory(prefix="fleetcast-asked-") as scratch:
        said, told = Path(scratch) / "manifest.msgpack", Path(scratch) / "answers.npz"
        said.write_bytes(codec.encode(manifest))
        line = [command, "prove", "--manifest", str(said), "--files", str(folder), "--variant", manifest.variants[0].name]
        try:
            done = subprocess.run(
                [*line, "--answers", str(told), "--json"],
                capture_output=True,
                check=False,
                timeout=SECONDS_MAX,
                stdin=subprocess.DEVNULL,
                env={name: os.environ[name] for name in INHERITED if name in os.environ},
            )
        except subprocess.TimeoutExpired:
            raise mismatch(Code.WORKER_HUNG, "answers to the golden inputs", expected=f"within {SECONDS_MAX:g} s", actual="none") from None
        if done.returncode or not told.exists():
            raise _refusal(done)
        with told.open("rb") as file:
            arrays = core.plain_arrays("answers", file, Code.GOLDEN_INVALID, bytes_max=core.GOLDEN_UNPACKED_BYTES_MAX)
    return {name.removeprefix(OUTPUT): array for name, array in arrays.items() if name.startswith(OUTPUT)}


def _refusal(done: "subprocess.CompletedProcess[bytes]") -> Refused:
    try:
        told = json.loads(done.stdout)
        code, reason = Code(told["code"]), str(told["reason"])
    except (ValueError, KeyError, TypeError):
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        code, reason = Code.GOLDEN_INVALID, f"{COMMAND} prove ended with {done.returncode}: {said[:200]}"
    return Refused(code, f"the golden inputs could not be asked: {reason}")
