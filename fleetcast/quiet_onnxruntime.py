"""Import ONNX Runtime so that it reports to nobody: `from fleetcast.quiet_onnxruntime import onnxruntime`, and never otherwise.

From 1.29 on, its official builds for Linux send names and hashes of models, numbers of inferences and an id of the device to their maker.
It looks at the variable once, when it is imported; its own functions that disable events come too late for the first ones.
"""

import os

VARIABLE = "ORT_DISABLE_TELEMETRY"
os.environ[VARIABLE] = "1"

import onnxruntime  # noqa: E402  # after the variable, on purpose

__all__ = ["VARIABLE", "onnxruntime"]
