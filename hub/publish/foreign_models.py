"""Describe models for runtimes other than ONNX Runtime: the signature is read from the file or given by the publisher."""

import json
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fleetcast.counted import counted
from fleetcast.litert_file import NoModel, keeps_variables, variable_operators_of
from fleetcast.missing_libraries import missing_library
from hub.core.publish import release as core
from hub.publish.publish_request import FILES, PublishRequest
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Tensor

LLAMA, LITERT = "llama", "litert"
PROMPT: tuple[Tensor, ...] = (Tensor(name="prompt", datatype="BYTES", shape=(1,)),)  # Signature that node.runtimes.llama reports.
TEXT: tuple[Tensor, ...] = (Tensor(name="text", datatype="BYTES", shape=(1,)),)
GGUF_VERSIONS = (2, 3)  # Versions that llama.cpp reads; version 1 counted in 32 bits.
DESCRIBE_SECONDS_MAX = 120.0  # A model of hundreds of megabytes is allocated in order to be described.
_TENSORS = TypeAdapter(tuple[Tensor, ...])


def signature_of(request: PublishRequest, path: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the inputs and outputs of a model that is not ONNX; both are empty for files that are only delivered.

    Raises:
        Refused: MODEL_LOAD: no such file; MODEL_SIGNATURE: the signature is not given; RUNTIME_ABSENT: the library that reads it is
        missing.
    """
    stated = request.inputs, request.outputs
    match request.runs_as:
        case "files":
            if any(stated):
                raise mismatch(Code.MODEL_SIGNATURE, f"{path}: inputs and outputs", expected=f"none of runtime {FILES!r}", actual="some")
            return (), ()
        case "llama":
            check_gguf(path)
            found = PROMPT, TEXT
        case "litert":
            if request.inputs and request.outputs and find_spec("ai_edge_litert") is None:
                _check_tflite(path)
                _check_shapes(path, request.input_shapes, request.inputs)
                return request.inputs, request.outputs
            stated_shapes = {tensor.name: tensor.shape for tensor in request.inputs or ()}
            found = describe_tflite(path, {**stated_shapes, **request.input_shapes})
            _check_shapes(path, request.input_shapes, found[0])
        case runtime:
            if not (request.inputs and request.outputs):
                expected = "[[inputs]] and [[outputs]] in the release file, since nothing here can read it"
                raise mismatch(Code.MODEL_SIGNATURE, f"{path}: signature for runtime {runtime!r}", expected=expected, actual="none")
            return request.inputs, request.outputs
    for side, declared, have in zip(("inputs", "outputs"), stated, found, strict=True):
        if declared is not None and declared != have:
            raise mismatch(Code.MODEL_SIGNATURE, f"{path}: {side}", expected=core.signature(declared), actual=core.signature(have))
    return found


def check_gguf(path: Path) -> None:
    """Check that a file is a GGUF model by its head: magic, version, number of tensors (ggml's docs/gguf.md).

    Raises:
        Refused: MODEL_LOAD.
    """
    head = _head(path, 24)
    if head[:4] != b"GGUF":
        raise mismatch(Code.MODEL_LOAD, f"{path}: first bytes", expected="b'GGUF' of a GGUF model", actual=head[:4])
    if len(head) < 24:
        raise mismatch(Code.MODEL_LOAD, f"{path}: size", expected="a GGUF model", actual=f"{len(head)} bytes: it is cut short")
    version, tensors = struct.unpack_from("<IQ", head, 4)
    if version not in GGUF_VERSIONS or not tensors:
        expected = f"version {' or '.join(map(str, GGUF_VERSIONS))} and some tensors"
        raise mismatch(Code.MODEL_LOAD, f"{path}: GGUF", expected=expected, actual=f"version {version} and {counted(tensors, 'tensor')}")


def describe_tflite(path: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the inputs and outputs of a .tflite model, read in a child process by the library that a device loads it with. `shapes`: sizes
    of inputs that the file leaves open.

    Raises:
        Refused: MODEL_LOAD, MODEL_SIGNATURE, or RUNTIME_ABSENT where the library is not installed.
    """
    _check_tflite(path)
    if find_spec("ai_edge_litert") is None:
        expected = "ai-edge-litert (of fleetcast[litert]: pip install ai-edge-litert), or [[inputs]] and [[outputs]] in the release file"
        raise mismatch(Code.RUNTIME_ABSENT, f"library that reads {path}", expected=expected, actual="neither")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hub.publish.litert_model", str(path.resolve()), json.dumps(shapes)],
            capture_output=True,
            check=False,
            timeout=DESCRIBE_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired:
        raise mismatch(
            Code.MODEL_LOAD, f"{path}: to be described", expected=f"within {DESCRIBE_SECONDS_MAX:g} s", actual="not yet"
        ) from None
    if done.returncode:
        complaint = done.stderr.decode(errors="replace").strip().splitlines()
        if missing := missing_library("\n".join(complaint)):
            raise Refused(Code.RUNTIME_ABSENT, f"{path} cannot be described here, because LiteRT cannot be loaded: {missing}")
        how = f"it ended by signal {-done.returncode}" if done.returncode < 0 else (complaint or ["it printed nothing"])[-1][:400]
        raise Refused(Code.MODEL_LOAD, f"{path} cannot be loaded as a LiteRT model: {how}")
    try:
        described = json.loads(done.stdout)
        inputs, outputs = (_TENSORS.validate_json(json.dumps(described[side])) for side in ("inputs", "outputs"))
    except ValidationError as error:
        raise core.invalid(Code.MODEL_SIGNATURE, f"{path}: tensors", error) from None
    return inputs, outputs


def _check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], inputs: Sequence[Tensor]) -> None:
    found = {tensor.name: tensor.shape for tensor in inputs}
    for name, shape in shapes.items():
        if name not in found:
            expected = f"one of {core.listed([*found])}"
            raise mismatch(Code.MODEL_SIGNATURE, f"{path}: input of --input-shape", expected=expected, actual=name[:64])
        if shape != found[name]:
            expected = f"{list(found[name])} of the file, of which only -1 is open"
            raise mismatch(Code.MODEL_SIGNATURE, f"{path}: --input-shape of {name}", expected=expected, actual=list(shape))


def _check_tflite(path: Path) -> None:
    head = _head(path, 8)
    if head[4:8] != b"TFL3":
        raise mismatch(Code.MODEL_LOAD, f"{path}: bytes 4 to 8", expected="b'TFL3' of a LiteRT model", actual=head[4:8])
    try:
        variables = variable_operators_of(path)
    except (NoModel, OSError) as error:
        raise Refused(Code.MODEL_LOAD, f"{path} is no .tflite file: {core.first_line(error)}") from None
    if variables:
        raise Refused(Code.MODEL_LOAD, f"{path}: {keeps_variables(variables)}")


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise Refused(Code.MODEL_LOAD, f"{path} cannot be read: {error.strerror}") from None
