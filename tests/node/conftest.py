"""Real models, staged as a store would stage them, and servers on free loopback ports."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.serving import worker_pool
from node.serving.activation import Prepared, Staged
from node.serving.loaded_model import Observation
from node.serving.server import Listen, Server
from node.workers import worker_handle
from schemas.errors import Refused
from schemas.limits import BLOCK_BYTES_MAX
from schemas.manifest import Block, File, Golden, Manifest, Tensor, Variant
from schemas.names import sha256

PREPARE_SECONDS_MAX = 120.0  # on a machine where nothing is ever idle, a quiet start gives up after 20 and begins anew
SIDES = ("input", "output")
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Regressor:
    """A scikit-learn model with its ONNX form."""

    estimator: Any
    onnx: bytes

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.estimator.predict(rows), np.float32).reshape(-1, 1)


@dataclass(frozen=True)
class Regressors:
    """Two models of one signature whose answers are far apart: the forest learned the same target plus 1000."""

    rows: np.ndarray
    linear: Regressor
    forest: Regressor


@pytest.fixture(scope="session")
def regressors() -> Regressors:
    from skl2onnx import to_onnx  # here, since pure tests of the node share this file and these take two seconds
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(7)
    rows = rng.normal(size=(400, 5)).astype(np.float32)
    target = (rows @ np.arange(1, 6) + rng.normal(scale=0.1, size=400)).astype(np.float32)
    linear = LinearRegression().fit(rows, target)
    forest = RandomForestRegressor(n_estimators=10, max_depth=6, random_state=7).fit(rows, target + 1000)
    return Regressors(rows, *(Regressor(model, to_onnx(model, rows[:1]).SerializeToString()) for model in (linear, forest)))


def file_of(path: str, payload: bytes) -> File:
    parts = [payload[at : at + BLOCK_BYTES_MAX] for at in range(0, len(payload), BLOCK_BYTES_MAX)]
    return File(path=path, bytes=len(payload), digest=sha256(payload), blocks=tuple(Block(sha256(part), len(part)) for part in parts))


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Staged]:
    """Put a release on disk, for one test."""
    return staging(tmp_path)


def staging(place: Path) -> Callable[..., Staged]:
    """Put a release on disk: `golden` is (inputs by tensor, outputs by tensor); other keywords replace fields of the manifest."""

    def put(
        version: str, onnx: bytes, *, model: str = "delay", golden: tuple[dict[str, Any], dict[str, Any]] | None = None, **fields: Any
    ) -> Staged:
        folder = place / f"{model}-{version}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(onnx)
        golden_path = None
        if golden is not None:
            golden_path = folder / "golden.npz"
            arrays = {
                f"{side}.{name}": array for side, half in zip(("input", "output"), golden, strict=True) for name, array in half.items()
            }
            np.savez(golden_path, **arrays)
            fields["golden"] = Golden(file=file_of("golden.npz", golden_path.read_bytes()))
        manifest = Manifest(
            **{
                "model": model,
                "version": version,
                "created": 1_700_000_000,
                "inputs": (Tensor(name="X", datatype="FP32", shape=(-1, 5)),),
                "outputs": (Tensor(name="variable", datatype="FP32", shape=(-1, 1)),),
                "variants": (Variant(name="fp32", files=(file_of("model.onnx", onnx),)),),
                **fields,
            }
        )
        return Staged(model, version, sha256(version.encode() + onnx), manifest, folder / "model.onnx", golden_path)

    return put


@dataclass
class Running:
    """A started server, what telemetry was told, and which workers it reported."""

    server: Server
    observations: list[Observation]
    exits: list[tuple[str, bytes, str, int]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def told(self, count: int) -> list[Observation]:
        """So many observations: a client has its answer a moment before telemetry is told of it."""
        deadline = time.monotonic() + 100
        while len(self.observations) < count:
            assert time.monotonic() < deadline, self.observations
            time.sleep(0.005)
        return self.observations

    def outcome(self, staged: Staged) -> Prepared | Refused:
        done, outcomes = threading.Event(), []
        self.server.prepare(staged, lambda outcome: (outcomes.append(outcome), done.set()))
        assert done.wait(PREPARE_SECONDS_MAX)
        assert len(outcomes) == 1
        return outcomes[0]

    def serve(self, staged: Staged) -> Prepared:
        outcome = self.outcome(staged)
        assert isinstance(outcome, Prepared), outcome
        self.server.switch(staged.model, staged.digest)
        return outcome


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """For a machine that has much to do: a crashed worker's successor may take its time, and none waits for an idle moment before it loads,
    which would be 20 seconds each. Tests of either set their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_pool, "READY_SECONDS_MAX", 60.0)
        patch.setattr(worker_handle, "QUIET_SECONDS_MAX", math.inf)
        yield


@contextmanager
def starting() -> Iterator[Callable[..., Running]]:
    """Start servers; all are stopped at the end."""
    servers: list[Server] = []

    def begin(listen: Listen | None = None) -> Running:
        observations: list[Observation] = []
        exits: list[tuple[str, bytes, str, int]] = []
        server = Server(listen or Listen(port=0), node="ewr-1", on_rows=observations.append)
        server.on_worker_exit = lambda *told: exits.append(told)
        server.start()
        servers.append(server)
        return Running(server, observations, exits)

    yield begin
    for server in servers:
        server.stop()


@contextmanager
def serving(folder: Path, *models: Regressor) -> Iterator[Running]:
    """A server for tests that leave it as it is: models as 1.0.0, 2.0.0, ..., the last one current, on TCP and on `node.sock`."""
    stage = staging(folder)
    with starting() as begin:
        running = begin(Listen(port=0, uds=str(folder / "node.sock")))
        for number, model in enumerate(models, 1):
            running.serve(stage(f"{number}.0.0", model.onnx))
        yield running


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    with starting() as begin:
        yield begin


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    return start()
