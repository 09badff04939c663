"""docs/api.md can be followed to the letter: every example runs against a real hub."""

import os
import re
import subprocess
from pathlib import Path

from hub.web.roles import GRANTS
from tests.hub.cli.fleets import BIN
from tests.hub.web.fleets import make_asked, served

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_example_of_the_page_runs_against_a_hub(tmp_path: Path) -> None:
    examples = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.S))
    with served(make_asked(tmp_path / "made")) as asked:
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "FLEETCAST_DIR": str(asked.made.fleet)}
        command = ["bash", "-euo", "pipefail", "-c", examples.replace("--max-time 5", "--max-time 1")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stderr
    assert "token:ada" in done.stdout
    assert "event: rollout" in done.stdout
    assert done.stdout.count('"state":"done"') >= 5


def test_the_page_lists_every_role() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), flags=re.M) == list(GRANTS)
