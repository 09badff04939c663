"""Publish releases of a small network, and keep what each answers: `python releases.py COUNT`, in the image before it boots."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path("/opt/vm")
HUB = "/var/lib/fleetcast-hub"
INPUTS, WIDTH = 8, 700  # two megabytes: fetching them takes a while
PROBATION_SECONDS, WINDOW_SECONDS = 25, 60


def network(seed: int) -> bytes:
    """Return weights of which no two releases share any."""
    rng = np.random.default_rng(seed)
    sizes = ((INPUTS, WIDTH), (WIDTH, WIDTH), (WIDTH, 1))
    weights = [
        numpy_helper.from_array((rng.normal(size=size) / size[0] ** 0.5).astype(np.float32), f"w{j}") for j, size in enumerate(sizes)
    ]
    nodes = [
        helper.make_node("MatMul", ["X", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["y"]),
    ]
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, INPUTS])
    taken = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph(nodes, "press", [given], [taken], weights)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())


def main() -> None:
    """Publish 1.0.0, 2.0.0 and so on, each after the one before."""
    reference = FOLDER / "reference.npz"
    rows = np.random.default_rng(0).normal(size=(400, INPUTS)).astype(np.float32)
    np.savez(reference, **{f"x{j}": rows[:, j] for j in range(INPUTS)})
    answers = {}
    for number in range(1, int(sys.argv[1]) + 1):
        path, version = FOLDER / "press.onnx", f"{number}.0.0"
        path.write_bytes(network(number))
        said = ["--name", "press", "--version", version, "--reference", str(reference), "--window-seconds", str(WINDOW_SECONDS)]
        said += [
            "--probation-seconds",
            str(PROBATION_SECONDS),
            "--calibrate-rows",
            "0",
            "--signals",
            "x0,x1,y",
            "--latency-ms-max",
            "60000",
        ]
        said += ["--dir", HUB, "--passphrase-file", "/etc/fleetcast/online.passphrase", "--json"]
        subprocess.run(["/opt/fleetcast/bin/fleetcast", "publish", str(path), *said], check=True)
        session = onnxruntime.InferenceSession(path.read_bytes())
        answers[version] = session.run(None, {"X": rows[:4]})[0].ravel().tolist()
    (FOLDER / "answers.json").write_text(json.dumps({"rows": rows[:4].ravel().tolist(), "answers": answers}))


if __name__ == "__main__":
    main()
