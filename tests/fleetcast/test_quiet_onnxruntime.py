"""ONNX Runtime reports to nobody: neither on a device nor where a release is made. Its builds do so from 1.29 on, unless they are stopped.

Where it means to report, it writes an id of the device and a queue of events below the home folder, before it sends the first one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPRESSING = {"CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED", "ORT_RUNNING_UNIT_TESTS"}
RUN = """
from onnx import TensorProto, helper
from fleetcast.quiet_onnxruntime import onnxruntime
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
onnxruntime.InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
"""


@pytest.mark.parametrize("module", ["node.runtimes.onnx", "hub.publish.onnx_model", "hub.publish.quantise"])
def test_onnx_runtime_makes_no_id_and_no_queue_of_events(module: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in SUPPRESSING and not name.startswith("XDG_")}

    subprocess.run([sys.executable, "-c", f"import {module}\n{RUN}"], env={**environment, "HOME": str(tmp_path)}, check=True, timeout=120)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
