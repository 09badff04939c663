"""Real fleets, models and references for tests of the commands, and the real `fleetcast` that is run on them."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge

from hub.publish.block_store import BlockStore
from hub.publish.builder import PublishRequest, build
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.manifest import Manifest
from tests import warm
from tests.databases import ON_POSTGRESQL, copy_of, url_of

BIN = Path(sys.executable).parent
INPUTS, TARGET = load_diabetes(return_X_y=True)
COLUMNS = [f"x{j}" for j in range(INPUTS.shape[1])]
Done = subprocess.CompletedProcess[str]


def run(*arguments: str, fleet: Path | None = None, **environment: str) -> Done:
    """`fleetcast` as an operator runs it; `fleet` is what FLEETCAST_DIR says."""
    said = {**os.environ, "FLEETCAST_DIR": str(fleet or ""), **environment}
    return warm.run("fleetcast", *arguments, env=said)


def ridge(alpha: float = 1.0) -> bytes:
    """A small ONNX model; another alpha makes another one."""
    return bytes(to_onnx(Ridge(alpha=alpha).fit(INPUTS, TARGET), INPUTS[:1].astype(np.float32)).SerializeToString())


def features() -> dict[str, np.ndarray]:
    """The columns that the model was trained on."""
    return {name: INPUTS[:, j].astype(np.float32) for j, name in enumerate(COLUMNS)}


def digest_of(folder: Path) -> str:
    """Every file's path and content; SQLite's own scratch files and locks come and go."""
    hasher = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(("-wal", "-shm", "lock")):
            hasher.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class Made:
    """A folder with a fleet in `fleet`, a passphrase in `secret`, a model in `good.onnx` and its reference in `good.npz`."""

    folder: Path

    @property
    def fleet(self) -> Path:
        return self.folder / "fleet"

    @property
    def secret(self) -> Path:
        return self.folder / "secret"

    def run(self, *arguments: str, **environment: str) -> Done:
        """Any command on this fleet, with its passphrase."""
        return run(*arguments, fleet=self.fleet, FLEETCAST_PASSPHRASE_FILE=str(self.secret), **environment)

    def publish(self, version: str, *more: str, model: str = "good.onnx", name: str = "m") -> Done:
        return self.run("publish", str(self.folder / model), "--name", name, "--version", version, *more, "--json")

    def publish_as(self, version: str, model: Path, *, golden: Path | None = None, **fields: Any) -> Manifest:
        """As a publisher's own program would sign it: `fields` replace those of the manifest that is built."""
        request = PublishRequest(model_path=model, name="m", version=version, golden_path=golden)
        manifest = build(request, BlockStore(self.fleet / "blocks"), now=int(time.time())).manifest.model_copy(update=fields)
        team = load_signer(self.fleet / "keys" / "team.pem", b"test")
        Repository(self.fleet / "trust").add_release("m", version, codec.encode(manifest), team=team, now=datetime.now(UTC))
        return manifest


def make(folder: Path, *models: str) -> Made:
    """A new fleet, whose team may publish `models`."""
    made = Made(folder)
    made.secret.write_text("test\n")
    made.secret.chmod(0o600)
    (folder / "good.onnx").write_bytes(ridge())
    np.savez(folder / "good.npz", **features())
    named = [word for model in models for word in ("--model", model)]
    if ON_POSTGRESQL:
        named += ["--database-url", url_of(made.fleet / "hub.sqlite")]
    done = made.run("init", str(made.fleet), "--fleet", "f", *named)
    assert done.returncode == 0, done.stderr
    return made


def copied(made: Made, folder: Path) -> Made:
    """The same fleet in another folder, with a database of its own."""
    copy, databases = Made(folder), [one / "fleet" / "hub.sqlite" for one in (made.folder, folder)]
    shutil.copytree(made.folder, folder, dirs_exist_ok=True)
    copy_of(*databases)
    settings = copy.fleet / "fleet.toml"
    settings.write_text(settings.read_text().replace(*map(url_of, databases)))
    return copy
