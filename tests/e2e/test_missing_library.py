"""llama.cpp is installed and lacks a shared library, on a device and at a publisher: both are told its name and its package.

The library is really missing: a copy of llama.cpp's own extension module asks the dynamic linker for libgomq.so.1, which nobody has.
"""

import json
import struct
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from tests.brokers import Broker
from tests.e2e import test_path
from tests.e2e.test_path import Plant, until

pytestmark = pytest.mark.timeout(400)
REFUSED, TROUBLE = 3, 1
NEEDED, NOBODY_HAS = b"libgomp.so.1\0", b"libgomq.so.1\0"
SAID = "the shared library libgomq.so.1 is not installed; on Debian: apt-get install libgomq1"
SCRIPT = "#!{python}\nfrom {package}.__main__ import main\nmain()\n"


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment like ours, but for what its llama.cpp is linked with."""
    folder = tmp_path_factory.mktemp("lacking")
    source, target = Path(xllamacpp.__file__).parent, folder / "first" / "xllamacpp"
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            data = path.read_bytes()
            if ".so" in path.suffixes:
                assert data.count(NEEDED) == 1, f"{path} is linked with another libgomp"
                data = data.replace(NEEDED, NOBODY_HAS)
            (target / path.name).write_bytes(data)
    venv.create(folder / "venv", symlinks=True)
    packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
    ours = sysconfig.get_path("purelib")
    (packages / "lacking.pth").write_text(f"{target.parent}\nimport site; site.addsitedir({ours!r})\n")
    binaries = folder / "venv" / "bin"
    for name, package in (("fleetcast", "hub"), ("fleetcast-node", "node")):
        (binaries / name).write_text(SCRIPT.format(python=binaries / "python", package=package))
        (binaries / name).chmod(0o755)
    return binaries


@pytest.fixture
def plant(mosquitto: Broker, tmp_path: Path, lacking: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    monkeypatch.setattr(test_path, "BIN", lacking)
    made = Plant(tmp_path, mosquitto)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def publish(plant: Plant, answer: str, code: int = 0) -> Any:
    model, prompts = plant.directory / "chat.gguf", plant.directory / "prompts.toml"
    model.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + bytes(1000))
    prompts.write_text(f'[[prompts]]\nprompt = "The capital of France is"\n{answer}')
    secret = ["--passphrase-file", str(plant.directory / "secret")]
    return plant.cli("publish", str(model), "--name", "diabetes", "--version", "1.0.0", "--golden", str(prompts), *secret, code=code)


def test_a_release_is_refused_before_a_byte_is_fetched_and_doctor_warns(plant: Plant) -> None:
    plant.start_node("node-a")
    publish(plant, 'answer = " Paris."\n')
    until("the node", lambda: list(plant.cli("nodes")))
    plant.cli("rollout", "start", "diabetes@1.0.0")

    told = until("the refusal", lambda: plant.cli("watch", "--history", "--kind", "receipt"))
    doctor = subprocess.run(
        [str(test_path.BIN / "fleetcast-node"), "doctor", "--json", "--settings", str(plant.directory / "node-a" / "node.toml")],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    found = {one["code"]: one for one in json.loads(doctor.stdout)}

    assert SAID in str(told), told
    assert not list((plant.directory / "node-a" / "data").rglob("chat.gguf*"))
    assert SAID in found["runtime.unloadable"]["what"]


def test_golden_prompts_that_cannot_be_asked_name_the_library(plant: Plant) -> None:
    said = publish(plant, "", code=REFUSED)

    assert SAID in str(said)
