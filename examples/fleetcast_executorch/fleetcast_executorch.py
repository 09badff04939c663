"""ExecuTorch programs (.pte). Names and free axes are not in such a file: signature.json beside it says them."""

import json

import torch
from executorch.runtime import Runtime

from node.runtimes import Code, Refused, Signature, Spec

METHOD = "forward"
DTYPES = {"UINT8": torch.uint8, "INT32": torch.int32, "INT64": torch.int64, "FP32": torch.float32, "FP64": torch.float64}


def specs_of(listed):
    """Return tensors as signature.json lists them."""
    return [Spec(one["name"], one["datatype"], tuple(one["shape"])) for one in listed]


class ExecuTorch:
    """One method of one program; it runs on the threads that ExecuTorch itself chooses."""

    def load(self, path, options):
        try:
            sides = json.loads((path.parent / "signature.json").read_text())
            self._inputs, self._outputs = (specs_of(sides[side]) for side in ("inputs", "outputs"))
            self._program = Runtime.get().load_program(path)
            self._method = self._program.load_method(METHOD)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise Refused(Code.MODEL_LOAD, f"{path.name} with signature.json is no ExecuTorch program: {error}") from None
        held, known = self._method.metadata.num_inputs(), len(self._inputs)
        if held != known:
            raise Refused(Code.MODEL_SIGNATURE, f"inputs of {path.name}: expected {known}, as signature.json says, found {held}")

    def describe(self):
        return Signature(tuple(self._inputs), tuple(self._outputs), "executorch_pte")

    def infer(self, inputs, parameters):
        tensors = [torch.tensor(inputs[spec.name], dtype=DTYPES[spec.datatype]) for spec in self._inputs]
        for at, tensor in enumerate(tensors):
            room = self._method.metadata.input_tensor_meta(at).nbytes()
            if tensor.nbytes > room:
                what = f"{self._inputs[at].name}: expected at most {room} bytes, found {tensor.nbytes}"
                raise Refused(Code.REQUEST_INVALID, f"{what}; ask for fewer rows")
        return [answer.numpy() for answer in self._method.execute(tensors)]

    def close(self):
        del self._method, self._program
