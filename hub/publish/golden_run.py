"""Run a model on its golden inputs through the device's own command, which has the runtimes that a hub lacks."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fleetcast.golden_file import plain_arrays
from hub.core.publish import release as core
from hub.publish.check_runner import Absent, proof_of, prover
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Manifest

SECONDS_MAX = 1800.0  # A language model of gigabytes is loaded twice and answers a few prompts.
OUTPUT = "output."


def answers(manifest: Manifest, folder: Path) -> Mapping[str, NDArray[Any]]:
    """Return the answers of the release's first build to its golden inputs, by output. Its files lie in the folder as a device has them.

    Raises:
        Refused: RUNTIME_ABSENT: the command is not installed here; or the device's own code for why the model could not answer.
    """
    with tempfile.TemporaryDirectory(prefix="fleetcast-asked-") as scratch:
        manifest_path, answers_path = Path(scratch) / "manifest.msgpack", Path(scratch) / "answers.npz"
        manifest_path.write_bytes(codec.encode(manifest))
        line = ["prove", "--json", "--manifest", str(manifest_path), "--files", str(folder), "--variant", manifest.variants[0].name]
        try:
            proof = proof_of([*prover(), *line, "--answers", str(answers_path)], SECONDS_MAX)
        except Absent as absent:
            expected = "fleetcast-node (of fleetcast[node], docs/install.md), or answers in the golden file"
            raise mismatch(
                Code.RUNTIME_ABSENT, "program that runs the model on its golden inputs", expected=expected, actual=str(absent)
            ) from None
        if not proof.passed:
            code = Code(proof.code) if proof.code in set(Code) else Code.GOLDEN_INVALID
            raise Refused(code, f"the model could not answer the golden inputs: {proof.reason}")
        if not answers_path.exists():
            raise mismatch(Code.GOLDEN_INVALID, "answers to the golden inputs", expected="a file of them", actual="none")
        with answers_path.open("rb") as file:
            arrays = plain_arrays("answers", file, Code.GOLDEN_INVALID, bytes_max=core.GOLDEN_UNPACKED_BYTES_MAX)
    return {name.removeprefix(OUTPUT): array for name, array in arrays.items() if name.startswith(OUTPUT)}
