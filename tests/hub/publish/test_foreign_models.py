"""Models of other runtimes: run with the signature that a device's own runtime will describe, or a refusal that says what is missing."""

import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tflite
from onnx import TensorProto, helper

from hub.publish import foreign_models
from hub.publish.block_store import BlockStore
from hub.publish.builder import build
from hub.publish.publish_request import Build, GoldenTerms, PublishRequest, Variants
from node.core.activation import golden as node_golden
from node.runtimes import Options
from node.runtimes.litert import LiteRt
from schemas.errors import Code, Refused
from schemas.manifest import Manifest, Tensor, blocks_of

NOW = 1_700_000_000


def gguf(path: Path, *, version: int = 3, tensors: int = 1) -> Path:
    """A GGUF file of one tensor and no metadata: what a publisher's machine can look at, though no language model."""
    name = b"token_embd.weight"
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, 0)
    info = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 64, 32, 0, 0)
    start = head + info
    padding = bytes(-len(start) % 32)
    path.write_bytes(start + padding + np.random.default_rng(0).normal(size=64 * 32).astype("<f4").tobytes())
    return path


def litert(path: Path) -> Path:
    """y = x + x, in LiteRT's own format, free in its first axis."""
    model = tflite.ModelT()
    model.version = 3
    code = tflite.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = tflite.BuiltinOperator.ADD
    code.version = 1
    model.operatorCodes = [code]
    model.buffers = [tflite.BufferT()]
    graph = tflite.SubGraphT()
    graph.tensors = []
    for name in ("x", "y"):
        tensor = tflite.TensorT()
        tensor.name, tensor.shape, tensor.shapeSignature = name, [1, 4], [-1, 4]
        tensor.type, tensor.buffer = tflite.TensorType.FLOAT32, 0
        graph.tensors.append(tensor)
    operator = tflite.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 0], [1]
    operator.builtinOptionsType, operator.builtinOptions = tflite.BuiltinOptions.AddOptions, tflite.AddOptionsT()
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.fixture
def store(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "blocks")


def refusal(request: PublishRequest, store: BlockStore) -> Refused:
    with pytest.raises(Refused) as caught:
        build(request, store, now=NOW)
    assert not list(store.digests())
    return caught.value


def case_of(manifest: Manifest, store: BlockStore) -> node_golden.GoldenCase:
    assert manifest.golden is not None
    listed = blocks_of(manifest.golden.file, lambda part: store.read(part.digest))
    return node_golden.parse(b"".join(store.read(block.digest) for block in listed))


def prompts(path: Path, *answers: str, agreement: float | None = None) -> Path:
    said = [f"text_agreement_min = {agreement}"] if agreement is not None else []
    said += ['[[prompts]]\nprompt = "The capital of France is"' + "".join(f'\nanswer = "{answer}"' for answer in answers)]
    path.write_text("\n".join(said))
    return path


# GGUF


def test_a_gguf_model_is_run_by_llama_with_a_prompt_in_and_a_text_out(tmp_path: Path, store: BlockStore) -> None:
    manifest = build(PublishRequest(gguf(tmp_path / "chat.gguf"), "chat", "1.0.0"), store, now=NOW).manifest

    assert manifest.variants[0].runtime == "llama"
    assert manifest.inputs == (Tensor(name="prompt", datatype="BYTES", shape=(1,)),)
    assert manifest.outputs == (Tensor(name="text", datatype="BYTES", shape=(1,)),)
    assert manifest.variants[0].files[0].path == "chat.gguf"


def test_golden_prompts_become_what_a_device_compares(tmp_path: Path, store: BlockStore) -> None:
    path = prompts(tmp_path / "prompts.toml", " Paris.", agreement=0.5)

    manifest = build(PublishRequest(gguf(tmp_path / "chat.gguf"), "chat", "1.0.0", golden_path=path), store, now=NOW).manifest

    case = case_of(manifest, store)
    assert case.inputs["prompt"].tolist() == ["The capital of France is"]
    assert case.outputs["text"].tolist() == [" Paris."]
    assert manifest.golden is not None
    assert manifest.golden.text_agreement_min == 0.5
    node_golden.fit_inputs(case, [node_golden.Spec("prompt", "BYTES", (1,))])


def test_several_prompts_are_for_a_model_that_takes_one_at_a_time(tmp_path: Path, store: BlockStore) -> None:
    path = tmp_path / "prompts.toml"
    path.write_text('[[prompts]]\nprompt = "a"\nanswer = "b"\n[[prompts]]\nprompt = "c"\nanswer = "d"\n')

    manifest = build(PublishRequest(gguf(tmp_path / "chat.gguf"), "chat", "1.0.0", golden_path=path), store, now=NOW).manifest

    case = case_of(manifest, store)
    assert (case.inputs["prompt"].tolist(), case.outputs["text"].tolist()) == (["a", "c"], ["b", "d"])
    asked = node_golden.questions(case, [node_golden.Spec("prompt", "BYTES", (1,))])
    assert [one["prompt"].tolist() for one in asked] == [["a"], ["c"]]


def test_prompts_in_json_say_the_same_and_the_releases_terms_stand_over_those_of_the_file(tmp_path: Path, store: BlockStore) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"text_agreement_min": 0.5, "prompts": [{"prompt": "Hi", "answer": "Hello there"}]}))
    request = PublishRequest(
        gguf(tmp_path / "chat.gguf"), "chat", "1.0.0", golden_path=path, golden_terms=GoldenTerms(text_agreement_min=0.25)
    )

    manifest = build(request, store, now=NOW).manifest

    assert case_of(manifest, store).outputs["text"].tolist() == ["Hello there"]
    assert manifest.golden is not None
    assert manifest.golden.text_agreement_min == 0.25


def test_prompts_without_answers_are_asked_of_the_devices_own_runtime(tmp_path: Path, store: BlockStore) -> None:
    asked: list[tuple[Manifest, dict[str, bytes]]] = []

    def answers(manifest: Manifest, folder: Path) -> dict[str, np.ndarray]:
        asked.append((manifest, {path.name: path.read_bytes() for path in folder.iterdir()}))
        return {"text": np.array([" Paris."])}

    request = PublishRequest(gguf(tmp_path / "chat.gguf"), "chat", "1.0.0", golden_path=prompts(tmp_path / "p.toml"), answers=answers)
    manifest = build(request, store, now=NOW).manifest

    told, files = asked[0]
    assert files["chat.gguf"] == (tmp_path / "chat.gguf").read_bytes()
    assert {file.path: file.digest for file in told.files_of("default")}["chat.gguf"] == manifest.variants[0].files[0].digest
    with np.load(io.BytesIO(files["golden.npz"])) as loaded:
        assert loaded.files == ["input.prompt"]
    assert case_of(manifest, store).outputs["text"].tolist() == [" Paris."]


def test_prompts_without_answers_and_nobody_to_ask_are_refused(tmp_path: Path, store: BlockStore) -> None:
    refused = refusal(PublishRequest(gguf(tmp_path / "chat.gguf"), "chat", "1.0.0", golden_path=prompts(tmp_path / "p.toml")), store)

    assert refused.code == Code.GOLDEN_INVALID
    assert "fleetcast-node" in refused.reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('prompts = "hi"', ("prompts", "hi")),
        ("[[prompts]]\n", ("prompts.0.prompt",)),
        ('[[prompts]]\nprompt = "a"\nanswer = "b"\n[[prompts]]\nprompt = "c"', ("2 prompts", "found 1")),
        ("[[prompts", ("TOML",)),
        ('[[prompts]]\nprompt = "a"\nanser = "b"', ("anser",)),
    ],
)
def test_prompts_of_another_form_are_refused_with_their_place(tmp_path: Path, store: BlockStore, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "p.toml").write_text(text)

    refused = refusal(PublishRequest(gguf(tmp_path / "chat.gguf"), "chat", "1.0.0", golden_path=tmp_path / "p.toml"), store)

    assert refused.code == Code.GOLDEN_INVALID
    assert all(word in refused.reason for word in words), refused.reason


def test_prompts_for_a_model_of_numbers_are_refused(tmp_path: Path, store: BlockStore) -> None:
    path = prompts(tmp_path / "p.toml", "x")

    refused = refusal(PublishRequest(litert(tmp_path / "add.tflite"), "add", "1.0.0", golden_path=path), store)

    assert refused.code == Code.GOLDEN_INVALID
    assert "FP32" in refused.reason


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"this is no model", ("GGUF", "this")),
        (b"GGUF\x03\0", ("cut short",)),
        (b"GGUF" + struct.pack("<IQQ", 9, 1, 0), ("version 2 or 3", "version 9")),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), ("some tensors", "0 tensors")),
    ],
)
def test_what_is_no_gguf_is_refused(tmp_path: Path, store: BlockStore, data: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / "chat.gguf").write_bytes(data)

    refused = refusal(PublishRequest(tmp_path / "chat.gguf", "chat", "1.0.0"), store)

    assert refused.code == Code.MODEL_LOAD
    assert all(word in refused.reason for word in words), refused.reason


def test_gguf_builds_that_were_made_elsewhere_are_variants(tmp_path: Path, store: BlockStore) -> None:
    small = Build("q4", model_path=gguf(tmp_path / "q4.gguf"))
    request = PublishRequest(gguf(tmp_path / "q8.gguf"), "chat", "1.0.0", variants=Variants((small, Build("q8"))))

    manifest = build(request, store, now=NOW).manifest

    assert [(one.name, one.files[0].path, one.runtime) for one in manifest.variants] == [
        ("q4", "q4.gguf", "llama"),
        ("q8", "q8.gguf", "llama"),
    ]
    refused = refusal(replace(request, variants=Variants((Build("int8", "int8"),))), BlockStore(tmp_path / "other"))
    assert refused.code == Code.VARIANT_FAILED
    assert "ONNX" in refused.reason


def test_an_onnx_text_model_must_agree_with_prompts_and_fills_in_missing_ones(tmp_path: Path, store: BlockStore) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["said"], ["heard"])],
        "g",
        [value("said", TensorProto.STRING, ["n"])],
        [value("heard", TensorProto.STRING, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "echo.onnx").write_bytes(model.SerializeToString())
    wrong, open_ = prompts(tmp_path / "wrong.toml", "Paris"), prompts(tmp_path / "open.toml")

    refused = refusal(PublishRequest(tmp_path / "echo.onnx", "echo", "1.0.0", golden_path=wrong), store)
    manifest = build(PublishRequest(tmp_path / "echo.onnx", "echo", "1.0.0", golden_path=open_), store, now=NOW).manifest

    assert refused.code == Code.GOLDEN_INVALID
    assert all(word in refused.reason for word in ("wrong.toml", "Paris", "The capital"))
    assert case_of(manifest, store).outputs["heard"].tolist() == ["The capital of France is"]


# LiteRT


def test_a_litert_model_is_described_as_a_device_describes_it(tmp_path: Path, store: BlockStore) -> None:
    path = litert(tmp_path / "add.tflite")
    runtime = LiteRt()
    runtime.load(path, Options(threads=1))
    here = runtime.describe()
    runtime.close()

    manifest = build(PublishRequest(path, "add", "1.0.0"), store, now=NOW).manifest

    assert manifest.variants[0].runtime == "litert"
    assert [(one.name, one.datatype, one.shape) for one in manifest.inputs] == [tuple(one) for one in here.inputs]
    assert [(one.name, one.datatype, one.shape) for one in manifest.outputs] == [tuple(one) for one in here.outputs]
    assert manifest.inputs[0].datatype == "FP32"


def test_a_litert_model_that_is_cut_short_is_refused_and_takes_nothing_with_it(tmp_path: Path, store: BlockStore) -> None:
    data = litert(tmp_path / "add.tflite").read_bytes()
    for name, content in (("text", b"no model"), ("short", data[:40]), ("torn", data[: len(data) // 2] + bytes(len(data) // 2))):
        (tmp_path / f"{name}.tflite").write_bytes(content)

        assert refusal(PublishRequest(tmp_path / f"{name}.tflite", "add", "1.0.0"), store).code == Code.MODEL_LOAD


def test_without_the_library_the_signature_has_to_be_said(tmp_path: Path, store: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_models, "find_spec", lambda name: None)
    request = PublishRequest(litert(tmp_path / "add.tflite"), "add", "1.0.0")
    said = (Tensor(name="x", datatype="FP32", shape=(-1, 4)),), (Tensor(name="y", datatype="FP32", shape=(-1, 4)),)

    refused = refusal(request, store)
    manifest = build(replace(request, inputs=said[0], outputs=said[1]), store, now=NOW).manifest

    assert refused.code == Code.RUNTIME_ABSENT
    assert "fleetcast[litert]" in refused.reason
    assert (manifest.inputs, manifest.outputs) == said


def test_a_signature_that_is_said_and_is_not_the_files_is_refused(tmp_path: Path, store: BlockStore) -> None:
    wrong = (Tensor(name="x", datatype="FP32", shape=(-1, 5)),)

    refused = refusal(PublishRequest(litert(tmp_path / "add.tflite"), "add", "1.0.0", inputs=wrong), store)

    assert refused.code == Code.MODEL_SIGNATURE
    assert all(word in refused.reason for word in ("[-1, 5]", "[-1, 4]"))


def test_golden_arrays_of_a_litert_model_are_taken_as_they_are(tmp_path: Path, store: BlockStore) -> None:
    np.savez(tmp_path / "golden.npz", **{"input.x": np.ones((2, 4), np.float32), "output.y": np.full((2, 4), 2, np.float32)})

    manifest = build(
        PublishRequest(litert(tmp_path / "add.tflite"), "add", "1.0.0", golden_path=tmp_path / "golden.npz"), store, now=NOW
    ).manifest

    assert case_of(manifest, store).outputs["y"].tolist() == [[2.0] * 4] * 2


# Third parties, and files


def test_a_third_partys_runtime_has_the_signature_that_is_said(tmp_path: Path, store: BlockStore) -> None:
    (tmp_path / "model.rknn").write_bytes(b"whatever it reads")
    said = (Tensor(name="x", datatype="UINT8", shape=(-1, 3)),), (Tensor(name="y", datatype="FP32", shape=(-1, 1)),)
    request = PublishRequest(tmp_path / "model.rknn", "m", "1.0.0", runtime="rknn")

    manifest = build(replace(request, inputs=said[0], outputs=said[1]), store, now=NOW).manifest

    assert (manifest.variants[0].runtime, manifest.inputs, manifest.outputs) == ("rknn", *said)
    refused = refusal(request, BlockStore(tmp_path / "other"))
    assert refused.code == Code.MODEL_SIGNATURE
    assert "[[inputs]]" in refused.reason


@pytest.mark.parametrize("make", [gguf, litert])
def test_runtime_files_only_delivers_whatever_the_file_is(tmp_path: Path, store: BlockStore, make: object) -> None:
    path = make(tmp_path / "model.bin")  # type: ignore[operator]

    manifest = build(PublishRequest(path, "m", "1.0.0", runtime="files"), store, now=NOW).manifest

    assert (manifest.variants[0].runtime, manifest.inputs) == ("files", ())


def test_golden_inputs_or_a_reference_for_what_is_only_delivered_are_refused(tmp_path: Path, store: BlockStore) -> None:
    path = gguf(tmp_path / "chat.gguf")

    refused = refusal(PublishRequest(path, "m", "1.0.0", runtime="files", golden_path=prompts(tmp_path / "p.toml", "x")), store)

    assert refused.code == Code.GOLDEN_INVALID
