"""Whether what other clients send changes an answer: digits whose pixels are sound, beside a camera that is broken."""

import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from bench.figures import Figure
from bench.node_clients import Connection, json_request
from bench.node_staged import served, staged
from hub.publish.joined_rows import joining_of
from hub.publish.onnx_model import OnnxModel
from hub.publish.quantise import make
from node.serving.activation import Staged

TRAINED = 1200  # rows; the rest is asked
GOLDEN_ROWS = 16  # pictures that share their maximum, so that a build that scales all rows alike answers them alike, alone and together
GOOD_CLIENTS, BROKEN_CLIENTS = 4, 2
ROUNDS = 4  # Times that each good client asks every picture.
OUTLIER = 65_535.0  # a pixel of a camera that is broken
INFER = "/v2/models/digits/infer"


@dataclass(frozen=True, slots=True)
class Asked:
    """How many good answers there were, and how many of them were another class than alone."""

    answers: int
    changed: int


def measure() -> list[Figure]:
    """The project's own int8 build and the original, served; and for comparison what ONNX Runtime answers to joined rows."""
    found: list[Asked] = []
    with tempfile.TemporaryDirectory() as folder:
        releases = dict(builds(Path(folder)))
        for how, release in releases.items():
            with served([release]) as server:
                found.append(ask(server.port, pictures()[TRAINED:], rounds=ROUNDS))
                (joined,) = (slot.current.stats().joined for slot in server._pool.slots.values() if slot.current)
            assert (joined > 0) == (how == "fp32"), (how, joined)
        without_proof = joined_regardless(releases["int8"].model_path, pictures()[TRAINED:])
    answers, changed = (sum(getattr(one, name) for one in found) for name in ("answers", "changed"))
    return [
        Figure(
            "serving.neighbour_changed_answers",
            float(changed),
            f"of {answers} good answers of an int8 and a fp32 build beside pixels of {OUTLIER:g}",
            "0",
            f"int8 rows joined without proof, of {without_proof.answers}",
            float(without_proof.changed),
        )
    ]


def pictures() -> np.ndarray:
    """scikit-learn's digits."""
    return np.asarray(load_digits(return_X_y=True)[0], np.float32)


def softmax_regression() -> bytes:
    """A softmax regression on them, trained here."""
    images = pictures()
    trained = LogisticRegression(max_iter=300).fit(images[:TRAINED], load_digits(return_X_y=True)[1][:TRAINED])
    weights = {"w": trained.coef_.T.astype(np.float32), "b": trained.intercept_.astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["X", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"]),
    ]
    x, shares = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in (("X", 64), ("shares", 10)))
    graph = helper.make_graph(nodes, "g", [x], [shares], [numpy_helper.from_array(one, name) for name, one in weights.items()])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())


def builds(folder: Path) -> Iterator[tuple[str, Staged]]:
    """The original and its int8 build, staged with what `publish` states of joining their rows."""
    original = folder / "original.onnx"
    original.write_bytes(softmax_regression())
    make("int8", original, folder / "int8.onnx", "int8", sparsity=0.0, calibration=None)
    golden = {"X": pictures()[pictures().max(axis=1) == 16.0][:GOLDEN_ROWS]}
    for how, path in (("fp32", original), ("int8", folder / "int8.onnx")):
        place = folder / how
        place.mkdir()
        release = staged(place, "digits", path.read_bytes(), "1.0.0", golden)
        stated = release.manifest.variants[0].model_copy(update={"joining": joining_of(path, OnnxModel(path), golden)})
        yield how, replace(release, manifest=release.manifest.model_copy(update={"variants": (stated,)}))


def ask(port: int, rows: Sequence[np.ndarray], *, rounds: int) -> Asked:
    """Have good clients ask all rows while broken ones never pause, and compare each answer with the same row's alone."""
    good = [json_request(INFER, {"X": row[np.newaxis]}) for row in rows]
    broken = rows[0].copy()
    broken[20] = OUTLIER
    never_pausing = json_request(INFER, {"X": broken[np.newaxis]})
    alone = [_label(one) for one in _answers(port, good)]
    done = threading.Event()

    def disturb() -> None:
        connection = Connection(port)
        while not done.is_set():
            connection.ask(never_pausing)

    with ThreadPoolExecutor(GOOD_CLIENTS + BROKEN_CLIENTS) as pool:
        disturbing = [pool.submit(disturb) for _ in range(BROKEN_CLIENTS)]
        try:
            asking = [pool.submit(_answers, port, good * rounds) for _ in range(GOOD_CLIENTS)]
            labels = [[_label(one) for one in each.result()] for each in asking]
        finally:
            done.set()
        for each in disturbing:
            each.result()
    changed = sum(one != other for each in labels for one, other in zip(each, alone * rounds, strict=True))
    return Asked(sum(len(each) for each in labels), changed)


def joined_regardless(path: Path, rows: np.ndarray) -> Asked:
    """What a server that joins rows without a proof would answer: each good row in one question with a broken one."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    broken = rows[0].copy()
    broken[20] = OUTLIER
    alone = [int(session.run(None, {"X": row[np.newaxis]})[0].argmax()) for row in rows]
    beside = [int(session.run(None, {"X": np.stack([row, broken])})[0][0].argmax()) for row in rows]
    return Asked(len(rows), sum(one != other for one, other in zip(alone, beside, strict=True)))


def _answers(port: int, requests: Sequence[bytes]) -> list[bytes]:
    connection = Connection(port)
    found = []
    for one in requests:
        status, body = connection.ask(one)
        if status != 200:
            raise RuntimeError(f"answered {status}: {body[:200]!r}")
        found.append(body)
    return found


def _label(body: bytes) -> int:
    return int(np.argmax(json.loads(body)["outputs"][0]["data"]))
