"""`fleetcast-node prove` as a publisher or a CI machine runs it: real models, real processes, and limits that the kernel keeps."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from node.core.activation import golden
from node.serving.activation import Staged
from schemas import codec
from schemas.limits import MIB
from schemas.manifest import Limits, Requirements, Tensor, Variant
from schemas.names import sha256
from schemas.parameters import Parameter
from schemas.proof import Proof
from tests import warm
from tests.node.conftest import Regressors, file_of

BIN = Path(sys.executable).parent
REFUSED, USAGE = 3, 2
Done = subprocess.CompletedProcess[str]
Stage = Callable[..., Staged]


def prove(staged: Staged, *more: str) -> Done:
    """The command, on a release as a node's store would hold it."""
    folder = staged.model_path.parent
    manifest = folder / "manifest.msgpack"
    if not manifest.exists():
        manifest.write_bytes(codec.encode(staged.manifest))
    return warm.run("fleetcast-node", "prove", "--manifest", manifest, "--files", folder, *more)


def proof_of(done: Done) -> Proof:
    return Proof.model_validate_json(done.stdout)


def known(regressors: Regressors, rows: int = 8) -> tuple[dict[str, Any], dict[str, Any]]:
    picked = regressors.rows[:rows]
    return {"X": picked}, {"variable": regressors.linear.predict(picked)}


def grower(path: Path, mebibytes: int) -> bytes:
    """A small file whose model takes much memory when it is asked: a row is spread over so many mebibytes, and summed."""
    floats = mebibytes * MIB // 4 // 5
    graph = helper.make_graph(
        [
            helper.make_node("Expand", ["X", "shape"], ["wide"]),
            helper.make_node("Relu", ["wide"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axes"], ["variable"], keepdims=1),
        ],
        "grower",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, 5])],
        [helper.make_tensor_value_info("variable", TensorProto.FLOAT, [1, 1])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [2], [floats, 5]),
            helper.make_tensor("axes", TensorProto.INT64, [2], [0, 1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(path))
    return path.read_bytes()


ONE_ROW = {
    "inputs": (Tensor(name="X", datatype="FP32", shape=(1, 5)),),
    "outputs": (Tensor(name="variable", datatype="FP32", shape=(1, 1)),),
}


def test_a_good_release_proves_itself_and_gives_the_evidence_of_a_receipt(stage: Stage, regressors: Regressors) -> None:
    staged = stage("1.0.0", regressors.linear.onnx, golden=known(regressors))

    done = prove(staged, "--json")

    assert done.returncode == 0, done.stderr
    proof = proof_of(done)
    assert proof.evidence is not None
    assert (proof.passed, proof.model, proof.version, proof.variant) == (True, "delay", "1.0.0", "fp32")
    assert proof.release == sha256(codec.encode(staged.manifest))
    assert (proof.evidence.golden_rows, proof.evidence.threads) == (8, 1)
    assert proof.evidence.golden_error_max <= 1
    assert min(proof.evidence.load_ms, proof.evidence.latency_ms, proof.evidence.memory_bytes) > 0


def test_people_are_told_the_same_in_words(stage: Stage, regressors: Regressors) -> None:
    done = prove(stage("1.0.0", regressors.linear.onnx, golden=known(regressors)), "--cores", "1")

    assert done.returncode == 0, done.stderr
    assert "verdict      passed" in done.stdout
    assert "1 threads on 1 cores" in done.stdout


def wrong_answers(stage: Stage, regressors: Regressors) -> Staged:
    inputs, outputs = known(regressors)
    return stage("1.0.0", regressors.linear.onnx, golden=(inputs, {"variable": outputs["variable"] + 1}))


def too_slow(stage: Stage, regressors: Regressors) -> Staged:
    return stage("1.0.0", regressors.linear.onnx, golden=known(regressors), limits=Limits(latency_ms_max=1e-6))


def other_signature(stage: Stage, regressors: Regressors) -> Staged:
    return stage("1.0.0", regressors.linear.onnx, inputs=(Tensor(name="X", datatype="FP32", shape=(-1, 6)),))


def changed_file(stage: Stage, regressors: Regressors) -> Staged:
    staged = stage("1.0.0", regressors.linear.onnx)
    staged.model_path.write_bytes(regressors.linear.onnx[:-1] + b"x")
    return staged


def shorter_file(stage: Stage, regressors: Regressors) -> Staged:
    staged = stage("1.0.0", regressors.linear.onnx)
    staged.model_path.write_bytes(regressors.linear.onnx[:-1])
    return staged


def absent_file(stage: Stage, regressors: Regressors) -> Staged:
    staged = stage("1.0.0", regressors.linear.onnx)
    staged.model_path.unlink()
    return staged


def escaping_file(stage: Stage, regressors: Regressors) -> Staged:
    staged = stage("1.0.0", regressors.linear.onnx)
    staged.model_path.rename(staged.model_path.parent.parent / "outside.onnx")
    staged.model_path.symlink_to(staged.model_path.parent.parent / "outside.onnx")
    return staged


def no_manifest(stage: Stage, regressors: Regressors) -> Staged:
    staged = stage("1.0.0", regressors.linear.onnx)
    (staged.model_path.parent / "manifest.msgpack").write_bytes(b"\xc1 no manifest")
    return staged


def other_arch(stage: Stage, regressors: Regressors) -> Staged:
    variant = Variant(name="npu", requirements=Requirements(arch=("s390x",)), files=(file_of("model.onnx", regressors.linear.onnx),))
    return stage("1.0.0", regressors.linear.onnx, variants=(variant,))


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (wrong_answers, "model.golden_mismatch", "within 0.0001 + 0.001 * |expected|"),
        (too_slow, "model.too_slow", "at most 1e-06 ms"),
        (other_signature, "model.signature_mismatch", "6"),
        (changed_file, "artifact.digest_mismatch", "model.onnx: expected"),
        (shorter_file, "artifact.digest_mismatch", "bytes, found"),
        (absent_file, "artifact.digest_mismatch", "cannot be read"),
        (escaping_file, "artifact.bad_path", "leads outside"),
        (no_manifest, "schema.malformed", "manifest"),
        (other_arch, "release.no_variant", "arch s390x"),
    ],
)
def test_what_a_node_would_refuse_is_refused_with_its_code(
    stage: Stage, regressors: Regressors, make: Callable[..., Staged], code: str, words: str
) -> None:
    done = prove(make(stage, regressors), "--json")

    assert done.returncode == REFUSED, done.stderr
    proof = proof_of(done)
    assert (proof.passed, proof.code, proof.evidence) == (False, code, None)
    assert words in proof.reason
    assert "Traceback" not in done.stderr


def test_a_refusal_in_words_names_the_code_on_stderr(stage: Stage, regressors: Regressors) -> None:
    done = prove(wrong_answers(stage, regressors))

    assert done.returncode == REFUSED
    assert "delay@1.0.0, variant fp32: refused [model.golden_mismatch]" in done.stdout
    assert done.stderr.rstrip().endswith("[model.golden_mismatch]")


def test_a_variant_that_is_not_there_is_refused_by_name(stage: Stage, regressors: Regressors) -> None:
    done = prove(stage("1.0.0", regressors.linear.onnx), "--variant", "int8", "--json")

    assert done.returncode == REFUSED
    assert proof_of(done).code == "release.no_variant"
    assert "expected int8, found fp32" in proof_of(done).reason


@pytest.mark.parametrize(("arguments", "code"), [((), "release.no_variant"), (("--variant", "odd"), "runtime.absent")])
def test_a_runtime_that_is_not_installed_here_is_refused_by_name(
    stage: Stage, regressors: Regressors, arguments: tuple[str, ...], code: str
) -> None:
    odd = Variant(name="odd", runtime="nosuch", files=(file_of("model.onnx", regressors.linear.onnx),))

    done = prove(stage("1.0.0", regressors.linear.onnx, variants=(odd,)), *arguments, "--json")

    assert done.returncode == REFUSED
    assert proof_of(done).code == code
    assert "nosuch" in proof_of(done).reason
    assert "onnx" in proof_of(done).reason


def test_files_that_nobody_runs_are_proved_to_be_there(stage: Stage, regressors: Regressors) -> None:
    handed_over = Variant(name="files", runtime="files", files=(file_of("model.onnx", regressors.linear.onnx),))

    done = prove(stage("1.0.0", regressors.linear.onnx, variants=(handed_over,), inputs=(), outputs=()), "--json")

    assert done.returncode == 0, done.stdout
    assert proof_of(done).variant == "files"


def test_a_model_that_takes_more_than_a_device_has_is_refused_by_the_kernel(stage: Stage, tmp_path: Path) -> None:
    staged = stage("1.0.0", grower(tmp_path / "grower.onnx", 600), **ONE_ROW)

    done = prove(staged, "--memory-bytes", str(256 * MIB), "--json")

    assert done.returncode == REFUSED, done.stderr
    assert proof_of(done).code in {"model.too_large", "worker.crashed"}
    assert proof_of(done).reason


def test_the_same_model_passes_where_there_is_room(stage: Stage, tmp_path: Path) -> None:
    slow = Limits(latency_ms_max=60_000)  # a busy machine is slow to give so much memory, and that is not asked here
    staged = stage("1.0.0", grower(tmp_path / "grower.onnx", 600), limits=slow, **ONE_ROW)

    done = prove(staged, "--json")

    proof = proof_of(done)
    assert done.returncode == 0, proof.reason
    assert proof.evidence is not None
    assert proof.evidence.memory_bytes > 600 * MIB


def test_a_device_without_room_for_a_worker_says_so_in_a_sentence(stage: Stage, regressors: Regressors) -> None:
    done = prove(stage("1.0.0", regressors.linear.onnx, golden=known(regressors)), "--memory-bytes", str(24 * MIB), "--json")

    assert done.returncode == REFUSED, done.stderr
    assert proof_of(done).code in {"model.too_large", "worker.crashed", "runtime.absent"}
    assert "Traceback" not in done.stderr


def test_answers_are_golden_outputs_where_only_inputs_were_given(stage: Stage, regressors: Regressors, tmp_path: Path) -> None:
    inputs, outputs = known(regressors)
    staged = stage("1.0.0", regressors.linear.onnx, golden=(inputs, {}))

    without = prove(staged, "--json")
    done = prove(staged, "--answers", str(tmp_path / "golden.npz"), "--json")

    case = golden.parse((tmp_path / "golden.npz").read_bytes())
    assert proof_of(without).code == "golden.invalid"
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(case.inputs["X"], inputs["X"])
    np.testing.assert_allclose(case.outputs["variable"], outputs["variable"], rtol=1e-5)
    evidence = proof_of(done).evidence
    assert evidence is not None
    assert evidence.golden_rows == 8


def test_answers_in_words_are_golden_outputs_as_well(stage: Stage, tmp_path: Path) -> None:
    told = np.array([["what a fine day"], ["rain again"], ["fine sun"], ["more rain and wind"]])
    mood = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(told[:, 0], ["glad", "sad", "glad", "sad"])
    model = to_onnx(mood, initial_types=[("X", StringTensorType([None, 1]))], options={"zipmap": False}, target_opset=17)
    tensors = {
        "inputs": (Tensor(name="X", datatype="BYTES", shape=(-1, 1)),),
        "outputs": (
            Tensor(name="label", datatype="BYTES", shape=(-1,)),
            Tensor(name="probabilities", datatype="FP32", shape=(-1, 2)),
        ),
    }
    staged = stage("1.0.0", model.SerializeToString(), golden=({"X": told}, {}), **tensors)

    done = prove(staged, "--answers", str(tmp_path / "golden.npz"), "--json")

    assert done.returncode == 0, done.stdout
    case = golden.parse((tmp_path / "golden.npz").read_bytes())
    assert case.inputs["X"].tolist() == told.tolist()
    assert case.outputs["label"].tolist() == ["glad", "sad", "glad", "sad"]


def test_answers_are_written_also_where_they_are_not_the_golden_ones(stage: Stage, regressors: Regressors, tmp_path: Path) -> None:
    done = prove(wrong_answers(stage, regressors), "--answers", str(tmp_path / "golden.npz"), "--json")

    case = golden.parse((tmp_path / "golden.npz").read_bytes())
    assert proof_of(done).code == "model.golden_mismatch"
    np.testing.assert_allclose(case.outputs["variable"], known(regressors)[1]["variable"], rtol=1e-5)


def test_answers_of_a_release_without_golden_inputs_are_refused(stage: Stage, regressors: Regressors, tmp_path: Path) -> None:
    done = prove(stage("1.0.0", regressors.linear.onnx), "--answers", str(tmp_path / "golden.npz"), "--json")

    assert proof_of(done).code == "golden.invalid"
    assert not (tmp_path / "golden.npz").exists()


def test_answers_that_cannot_be_written_are_a_sentence(stage: Stage, regressors: Regressors, tmp_path: Path) -> None:
    done = prove(
        stage("1.0.0", regressors.linear.onnx, golden=known(regressors)), "--answers", str(tmp_path / "no" / "golden.npz"), "--json"
    )

    assert done.returncode == REFUSED
    assert "cannot be written" in proof_of(done).reason


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("threshold = 0.7\n", "", ""),
        ("threshold = 2.0\n", "parameter.bounds", "expected 0 to 1, found 2"),
        ("treshold = 0.7\n", "parameter.unknown", "expected threshold, found treshold"),
        ("threshold = \n", "settings.invalid", "parameters.toml"),
    ],
)
def test_parameters_are_taken_within_the_releases_bounds(
    stage: Stage, regressors: Regressors, tmp_path: Path, text: str, code: str, words: str
) -> None:
    threshold = Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0)
    staged = stage("1.0.0", regressors.linear.onnx, golden=known(regressors), parameters=(threshold,))
    (tmp_path / "parameters.toml").write_text(text)

    done = prove(staged, "--parameters", str(tmp_path / "parameters.toml"), "--json")

    proof = proof_of(done)
    assert (proof.passed, proof.code) == (not code, code)
    assert words in proof.reason


def test_arguments_that_make_no_sense_end_with_two() -> None:
    done = warm.run("fleetcast-node", "prove", "--cores", "0")

    assert done.returncode == USAGE


def test_json_of_a_proof_is_read_by_any_program(stage: Stage, regressors: Regressors) -> None:
    said = json.loads(prove(stage("1.0.0", regressors.linear.onnx, golden=known(regressors)), "--json").stdout)

    assert said["passed"] is True
    assert len(said["release"]) == 64
