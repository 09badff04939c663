"""What `import fleetcast` offers: every name, and nothing imported before it is used."""

import ast
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fleetcast
from schemas import codec
from schemas.window import Window

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"


def modules_after(program: str) -> set[str]:
    told = "; import json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", "import sys; " + program + told], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout))


def test_importing_fleetcast_imports_nothing_but_the_standard_library() -> None:
    before = modules_after("pass")
    new = modules_after("import fleetcast; dir(fleetcast)") - before
    others = {name for name in new if name.partition(".")[0] not in sys.stdlib_module_names}

    assert others == {"fleetcast"}


@pytest.mark.parametrize(
    ("names", "needs"),
    [
        ("fleetcast.Link; fleetcast.decode", {"paho", "msgpack"}),
        ("fleetcast.open; fleetcast.connect; fleetcast.Fleet; fleetcast.Key", set()),
    ],
)
def test_a_name_imports_its_own_module_and_neither_hub_nor_node(names: str, needs: set[str]) -> None:
    loaded = {name.partition(".")[0] for name in modules_after(f"import fleetcast; {names}")}

    assert needs <= loaded
    assert not {"hub", "node", "click", "pandas", "polars", "onnx", "sqlalchemy"} & loaded


@pytest.mark.parametrize("name", fleetcast.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(fleetcast, name) is not None
    assert name in dir(fleetcast)


def test_other_names_are_an_attribute_error_that_names_them() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Windows'"):
        getattr(fleetcast, "Windows")  # noqa: B009  # a type checker would refuse the plain spelling


def test_the_names_for_type_checkers_are_those_at_run_time() -> None:
    (block,) = [
        node
        for node in ast.parse((ROOT / "fleetcast" / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    ]
    checked = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}

    assert set(checked) == set(fleetcast.__all__) - {"__version__"}
    assert all(getattr(fleetcast, name) is getattr(sys.modules[str(module)], name) for name, module in checked.items())


def test_what_is_offered_decodes_the_golden_vectors() -> None:
    payload = (VECTORS / "window-v1.msgpack").read_bytes()
    window = fleetcast.decode(fleetcast.Window, payload)

    assert window == codec.decode(Window, payload)
    assert fleetcast.encode(window) == payload


def test_the_version_is_the_installed_one() -> None:
    assert fleetcast.__version__ == importlib.metadata.version("fleetcast")
