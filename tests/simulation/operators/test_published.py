"""A simulation of a release that is published has its real blocks: the bytes are those that `fleetcast plan` counts."""

import json
from pathlib import Path

from tests.hub.cli import fleets

FLEET = """\
nodes = 20
[release]
directory = "fleet"
name = "m@1.1.0"
[[groups]]
name = "new"
share = 50
link = "ethernet"
serves = "nothing"
[[groups]]
name = "old"
share = 50
link = "wifi"
serves = "1.0.0"
"""


def test_a_published_release_costs_what_plan_says_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    made = fleets.make(tmp_path, "m")
    (tmp_path / "other.onnx").write_bytes(fleets.ridge(2.0))
    made.publish_as("1.0.0", tmp_path / "good.onnx")
    made.publish_as("1.1.0", tmp_path / "other.onnx")
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)

    done = made.run("simulate", str(file), "--sample", "20", "--json")
    planned = json.loads(made.run("plan", "m@1.1.0", "--json").stdout)

    assert done.returncode == 0, done.stderr
    found = {one["link"]: one["bytes"] for one in json.loads(done.stdout)["links"]}
    assert found["ethernet"] == 10 * planned["first_install"][0]["bytes"]
    assert 0 < found["wifi"] <= found["ethernet"]
    file.write_text(FLEET.replace("m@1.1.0", "m@9.9.9"))
    refused = made.run("simulate", str(file))
    assert refused.returncode == 3
    assert f"{file}, line 4: release.name: there is no release m@9.9.9; there are 1.0.0, 1.1.0" in refused.stderr
