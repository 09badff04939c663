import importlib
import subprocess
import sys

import pytest

from fleetcast.absent_modules import absent


def test_a_module_looks_absent_for_a_while() -> None:
    sys.modules.pop("this", None)

    with absent("this"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("this")

    assert "this" not in sys.modules


def test_a_module_that_is_imported_already_stays() -> None:
    with absent("json"):
        import json

    assert sys.modules["json"] is json


def test_the_agent_loads_nothing_that_it_does_not_need() -> None:
    """What it begins with: it ends where its settings cannot be read."""
    program = """
import contextlib, sys, node.__main__
sys.argv = ["fleetcast-node", "run", "--settings", "nowhere.toml"]
with contextlib.suppress(SystemExit):
    node.__main__.main()
print(*{name.partition(".")[0] for name in sys.modules})
"""

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    heavy = {
        "rich",
        "pygments",
        "greenlet",
        "onnxruntime",
        "onnx",
        "scipy",
        "sqlalchemy",
        "pyarrow",
        "websockets",
        "dns",
        "boto3",
        "botocore",
    }
    assert "tuf" in said
    assert not heavy & set(said)
