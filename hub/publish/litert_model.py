"""Print a .tflite model's inputs and outputs as JSON: `python -m hub.publish.litert_model MODEL`, in a process of its own."""

import json
import sys
from typing import Any

import numpy as np

DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip


def main(path: str) -> None:
    """Load the model as a device does (node.runtimes.litert), and print its inputs and outputs."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    sides = {"inputs": interpreter.get_input_details(), "outputs": interpreter.get_output_details()}
    json.dump({side: [_tensor(one) for one in tensors] for side, tensors in sides.items()}, sys.stdout)


def _tensor(one: dict[str, Any]) -> dict[str, Any]:
    dtype = np.dtype(one["dtype"]).name
    signature = one["shape_signature"] if len(one["shape_signature"]) else one["shape"]
    return {
        "name": str(one["name"]),
        "datatype": DATATYPES.get(dtype, dtype),
        "shape": [int(axis) if axis >= 0 else -1 for axis in signature],
    }


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:  # The library may raise anything, and the caller needs one line.
        sys.exit((str(error).strip().splitlines() or [type(error).__name__])[0][:200])
