"""Print a .tflite model's inputs and outputs as JSON: `python -m hub.publish.litert_model MODEL SHAPES`, in a process of its own.

SHAPES is a JSON object of the sizes that inputs get where the file leaves them open; one that does not fit the file is not used.
"""

import json
import sys
from typing import Any

import numpy as np

DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip


def main(path: str, shapes: dict[str, list[int]]) -> None:
    """Load the model as a device does (node.runtimes.litert), and print its inputs and outputs."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_path=path, num_threads=1)
    inputs = [_tensor(one) for one in interpreter.get_input_details()]
    for one, details in zip(inputs, interpreter.get_input_details(), strict=True):
        shape = shapes.get(one["name"], one["shape"])
        fits = len(shape) == len(one["shape"]) and all(want in (-1, have) for want, have in zip(one["shape"], shape, strict=True))
        if fits and shape != one["shape"]:
            interpreter.resize_tensor_input(details["index"], [max(axis, 1) for axis in shape], strict=True)
            one["shape"] = shape
    try:
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        free = [f"{one['name']} {one['shape']}" for one in inputs if -1 in one["shape"]]
        hint = f"; the file leaves sizes of {', '.join(free)} open, which --input-shape sets" if free else ""
        sys.exit(f"{_line(error)}{hint}")
    outputs = [_tensor(one) for one in interpreter.get_output_details()]
    json.dump({"inputs": inputs, "outputs": outputs}, sys.stdout)


def _tensor(one: dict[str, Any]) -> dict[str, Any]:
    dtype = np.dtype(one["dtype"]).name
    signature = one["shape_signature"] if len(one["shape_signature"]) else one["shape"]
    return {
        "name": str(one["name"]),
        "datatype": DATATYPES.get(dtype, dtype),
        "shape": [int(axis) if axis >= 0 else -1 for axis in signature],
    }


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


if __name__ == "__main__":
    try:
        main(sys.argv[1], json.loads(sys.argv[2]))
    except Exception as error:  # The library may raise anything, and the caller needs one line.
        sys.exit(_line(error))
