"""What every run begins with, made once a process: a fleet's folder with keys, settings, signed trust, releases, and a database."""

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from hub.core.delivery.encode import encode_block
from hub.database.store import Store
from hub.publish.block_store import BlockStore
from hub.service.delivery.announce import Signers
from hub.signing.tuf_repository import Repository
from node.enrol.enrolment_files import KEY_NAME
from node.runtimes import probe
from schemas import codec
from schemas.manifest import Block, File, Limits, Manifest, Tensor, Variant
from schemas.names import sha256
from tests.simulation.whole_fleet.world import EPOCH

FLEET = "simulated"
MODELS = ("delay", "price")
NODES_MAX = 5
KINDS: Mapping[str, str] = {  # what the releases of each model do, by version
    "1.0.0": "good",
    "1.1.0": "good",
    "1.2.0": "good",
    "1.3.0": "broken",
    "1.4.0": "crashing",
    "1.5.0": "slow",
    "1.6.0": "good",
}
PROBATION_SECONDS = 20


@dataclass(frozen=True)
class Template:
    """Read only: a run copies the folder."""

    directory: Path
    team: CryptoSigner
    signers: Signers
    manifests: Mapping[tuple[str, str], bytes]  # by model and version
    names: dict[bytes, str]  # versions by the digest of their manifest
    root: bytes
    device_keys: tuple[bytes, ...]
    probes: Path  # what a node has found out about its runtimes

    def name_of(self, digest: bytes) -> str:
        return self.names.get(digest) or digest.hex()[:12]


def scratch() -> Path:
    """A folder in memory, where there is one: the runs sync to disk as the product does, and that would be most of their time."""
    memory = Path("/dev/shm")  # noqa: S108  # the folder in it is made by mkdtemp
    folder = Path(tempfile.mkdtemp(prefix="fleetcast-sim-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def template() -> Template:
    folder = scratch()
    directory, now = folder / "hub", datetime.fromtimestamp(EPOCH, UTC)
    team, targets, root = (CryptoSigner.generate_ed25519() for _ in range(3))
    signers = Signers(*(CryptoSigner.generate_ed25519() for _ in range(3)))
    directory.mkdir()
    (directory / "fleet.toml").write_text(f'fleet = "{FLEET}"\nbroker_url = "mqtt://sim:1883"\ncohort_nodes_min = 1\n')
    repository = Repository.create(
        directory / "trust",
        root_signers=[root],
        threshold=1,
        targets=targets,
        snapshot=signers.snapshot,
        timestamp=signers.timestamp,
        rollouts=signers.rollouts,
        team=team.public_key,
        models=MODELS,
        now=now,
    )
    manifests = {(model, version): _manifest(directory, model, version) for model in MODELS for version in KINDS}
    names = {sha256(document): version for (_, version), document in manifests.items()}
    store = Store(f"sqlite:///{directory / 'hub.sqlite'}", clock=lambda: EPOCH)
    store.create()
    store.close()
    probes = folder / "probes"
    probes.mkdir()
    probe.execution_providers(probes / probe.PROVIDERS)
    probe.unloadable(probes)
    device_keys = tuple(_key() for _ in range(2 * NODES_MAX))
    return Template(directory, team, signers, manifests, names, repository.root(), device_keys, probes)


def new_node(folder: Path, *, key: bytes) -> None:
    """A node's data folder before its first start. That a runtime can be loaded is known already: to find out takes a process."""
    shutil.copytree(template().probes, folder)
    (folder / KEY_NAME).write_bytes(key)


def _key() -> bytes:
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _manifest(directory: Path, model: str, version: str) -> bytes:
    """A release of one small file, which says what its worker does."""
    data = f"{model} {version} {KINDS[version]} {'.' * 200}".encode()
    block, payloads = encode_block(data)
    for digest, payload in payloads.items():
        BlockStore(directory / "blocks").put(digest, payload)
    file = File(path="model.onnx", bytes=len(data), digest=sha256(data), blocks=(Block(*block),))
    return codec.encode(
        Manifest(
            model=model,
            version=version,
            created=int(EPOCH),
            inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 3)),),
            outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 1)),),
            variants=(Variant(name="fp32", files=(file,)),),
            limits=Limits(probation_seconds=PROBATION_SECONDS),
        )
    )
