"""Make a small model to try fleetcast with: `python -m tools.example FOLDER`. Needs what `fleetcast[hub]` installs, and no network."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hub.publish.example_release import model, write_reference

NODE = """\
id = "gateway-17"
fleet = "plant"
broker = "mqtt://127.0.0.1:1883"
data = "node-data"
root = "plant/root.json"
"""


def main(arguments: Sequence[str]) -> int:
    """Write model.onnx, model-2.onnx (a little later by five minutes), reference.parquet and node.toml into a folder."""
    if len(arguments) != 1:
        print("usage: python -m tools.example FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model(bias=0.0))
    (folder / "model-2.onnx").write_bytes(model(bias=5.0))
    write_reference(folder / "reference.parquet")
    (folder / "node.toml").write_text(NODE, encoding="utf-8")
    print(f"{folder}: model.onnx, model-2.onnx, reference.parquet, node.toml")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
