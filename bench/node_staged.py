"""Real models, staged as a node's store would stage them, and a server that serves them."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor

from bench.pairs import wheel_file
from node.core.inference.tensors import DATATYPES
from node.serving.activation import Prepared, Staged
from node.serving.server import Listen, Server
from schemas.limits import BLOCK_BYTES_MAX
from schemas.manifest import Block, File, Golden, Limits, Manifest, Tensor, Variant
from schemas.names import sha256

SILERO = ("silero_vad", "6.0.0", "silero_vad/data/silero_vad.onnx")
RECOGNISER = ("rapidocr_onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")
Arrays = dict[str, np.ndarray]


def mlp(seed: int, width: int = 64) -> tuple[bytes, Arrays]:
    """A small regressor that was really trained, and eight rows to ask it."""
    inputs, target = load_diabetes(return_X_y=True)
    model = MLPRegressor(hidden_layer_sizes=(width, width), random_state=seed, max_iter=50).fit(inputs, target)
    return to_onnx(model, inputs[:1].astype(np.float32)).SerializeToString(), {"X": inputs[:8].astype(np.float32)}


def linear() -> bytes:
    """A regressor of three inputs: what it computes is next to nothing, whatever is asked."""
    inputs, target = load_diabetes(return_X_y=True)
    return to_onnx(LinearRegression().fit(inputs[:, :3], target), inputs[:1, :3].astype(np.float32)).SerializeToString()


def silero() -> tuple[bytes, Arrays]:
    """A voice detector of 2 MB, and 32 ms of sound."""
    sound = np.sin(np.arange(576) / 9).astype(np.float32)[None, :]
    return wheel_file(*SILERO), {"input": sound, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)}


def recogniser() -> tuple[bytes, Arrays]:
    """A text recogniser of 11 MB, and a picture of 48 by 48."""
    return wheel_file(*RECOGNISER), {"x": np.random.default_rng(0).normal(size=(1, 3, 48, 48)).astype(np.float32)}


def staged(folder: Path, name: str, data: bytes, version: str, golden: Arrays | None = None) -> Staged:
    """A release of one file, with what the model itself answers as its golden outputs, where inputs are given."""
    place = folder / f"{name}-{version}"
    place.mkdir()
    path = place / "model.onnx"
    path.write_bytes(data)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    golden_path, fields = None, {}
    if golden is not None:
        names = [one.name for one in session.get_outputs()]
        arrays = {f"input.{key}": value for key, value in golden.items()}
        arrays |= {f"output.{key}": value for key, value in zip(names, session.run(None, golden), strict=True)}
        golden_path = place / "golden.npz"
        np.savez(golden_path, **arrays)
        fields["golden"] = Golden(file=_file("golden.npz", golden_path.read_bytes()))
    inputs, outputs = ([_tensor(one) for one in side] for side in (session.get_inputs(), session.get_outputs()))
    manifest = Manifest(
        model=name,
        version=version,
        created=0,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        variants=(Variant(name="fp32", files=(_file("model.onnx", data),)),),
        limits=Limits(),
        **fields,
    )
    return Staged(name, version, sha256(f"{name}{version}".encode()), manifest, path, golden_path)


@contextmanager
def served(releases: Sequence[Staged]) -> Iterator[Server]:
    """A server, as `fleetcast-node run` has it, with these releases current."""
    server = Server(Listen(port=0), node="bench", on_rows=lambda _: None)
    server.start()
    sys.setswitchinterval(0.0005)  # as `fleetcast-node run` does
    try:
        for release in releases:
            bring(server, release)
        yield server
    finally:
        server.stop()


def bring(server: Server, release: Staged) -> None:
    """Prepare a release and switch to it."""
    ready: list[object] = []
    done = threading.Event()
    server.prepare(release, lambda result: (ready.append(result), done.set()))  # type: ignore[func-returns-value]
    done.wait(120)
    if not isinstance(ready[0], Prepared):
        raise RuntimeError(f"not prepared: {ready[0]}")
    server.switch(release.model, release.digest)


def _file(path: str, data: bytes) -> File:
    parts = [data[at : at + BLOCK_BYTES_MAX] for at in range(0, len(data), BLOCK_BYTES_MAX)]
    return File(path=path, bytes=len(data), digest=sha256(data), blocks=tuple(Block(sha256(part), len(part)) for part in parts))


def _tensor(node) -> Tensor:  # type: ignore[no-untyped-def]
    word = {"tensor(float)": "float32", "tensor(double)": "float64"}.get(node.type, node.type[len("tensor(") : -1])
    shape = tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in node.shape)
    return Tensor(name=node.name, datatype=DATATYPES[np.dtype(word)], shape=shape)
