"""A device installs `fleetcast[node]` from a wheel and the lock into a bare environment: it works, and nothing of the hub's is there."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
HUBS_ONLY = {"sqlalchemy", "pyarrow", "scipy", "onnx", "iotcore", "rich", "pandas", "scikit-learn", "pytest", "hypothesis"}
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, built from a copy so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in ("fleetcast", "schemas", "hub", "node", "simulation"):
        for path in (CHECKOUT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = source / path.relative_to(CHECKOUT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (CHECKOUT / name).exists():
            (source / name).write_bytes((CHECKOUT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (built,) = folder.glob("fleetcast-*.whl")
    return built


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a virtual environment as a device has it."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder)
    lock = CHECKOUT / "requirements" / "node.txt"
    pip(folder, "install", "--quiet", "--no-compile", "--require-hashes", "-r", lock)
    pip(folder, "install", "--quiet", "--no-compile", "--no-deps", "--no-index", wheel)
    return folder


def pip(folder: Path, *arguments: str | Path) -> str:
    """Our own pip on the device's environment, which is left as bare as it is."""
    return run(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *arguments, cwd=folder)


@pytest.mark.timeout(300)  # the first test makes the environment: downloads of about 40 MB
def test_a_device_gets_none_of_the_hubs_dependencies(device: Path) -> None:
    listed = json.loads(pip(device, "list", "--format", "json"))
    names = {one["name"].lower().replace("_", "-") for one in listed}

    assert names & HUBS_ONLY == set()
    assert {"fleetcast", "paho-mqtt", "onnxruntime", "tuf"} <= names
    size_bytes = sum(path.lstat().st_size for path in device.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"\na device's environment: {len(names)} packages, {size_bytes / 1e6:.0f} MB")


def test_the_lock_is_all_that_the_node_needs(device: Path) -> None:
    pip(device, "check")


def test_node_and_schemas_work_from_another_folder(device: Path, tmp_path: Path) -> None:
    said = run(
        device / "bin" / "python", "-c", "import node.agent.loop, fleetcast.mqtt_connection, schemas; print(schemas.__file__)", cwd=tmp_path
    )

    assert said.strip().startswith(str(device))


def test_the_devices_command_is_there(device: Path, tmp_path: Path) -> None:
    assert "run" in run(device / "bin" / "fleetcast-node", "--help", cwd=tmp_path)


def test_a_quickstart_names_the_extra_that_a_device_lacks(device: Path, tmp_path: Path) -> None:
    command = [device / "bin" / "fleetcast", "quickstart", "plant"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "of [hub] there is no alembic, fastapi, iotcore, jinja2, onnx, pyarrow" in done.stderr
    assert "install it with both extras, hub and node" in done.stderr


def test_the_wheel_holds_the_schemas_for_other_tools_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert {"schemas/asyncapi.yaml", "schemas/json/window.json", "schemas/py.typed", "node/py.typed"} <= names
    assert {name.split("/")[0] for name in names if not name.startswith("fleetcast-")} == {
        "fleetcast",
        "schemas",
        "hub",
        "node",
        "simulation",
    }
