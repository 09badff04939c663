"""`fleetcast apply` that is killed at a step of its database: applied again, it is whole, and nothing of it was done twice.

There are some forty steps. Each fourth is tried, so that it takes less than five minutes on a busy machine; EVERY=1 in the environment,
as in `EVERY=1 make test-slow`, tries all.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hub.database.blueprint_rows import Blueprints
from hub.database.store import Store
from tests.hub.cli.fleets import Done, Made
from tests.hub.cli.test_remote import in_process
from tests.hub.cli.test_rollout import Hub
from tests.hub.hubs import until
from tests.hub.web.conftest import unused
from tests.hub.web.fleets import Asked, copied

__all__ = ["unused"]
pytestmark = pytest.mark.slow  # Two processes for each step: `make test-slow`.
EVERY = int(os.environ.get("EVERY") or "4")  # Each such step is tried.
STEPS_MAX = 400
ONE = """\
blueprint: 1
models:
  m:
    deployments:
      hold: {where: node=n3, priority: 100, release: 1.0.0, pin: true}
      default: {release: 1.0.0, pin: true}
nodes:
  - node: n5
    telemetry: off
"""
TWO = """\
blueprint: 1
models:
  m:
    deployments:
      canary: {where: site=jfk, release: 1.0.0, pin: true}
      default: {release: 1.1.0, pin: true}
nodes:
  - where: site=jfk
    cohort: nyc
"""
CHANGES = 5  # From each of the two to the other.


def here(made: Made, *words: str) -> Done:
    return in_process(*words, FLEETCAST_DIR=str(made.fleet))


def killed(made: Made, at: int, path: Path) -> tuple[int, int]:
    """Apply, and be killed at a step; return the exit code, and how many steps there were where it came to its end."""
    count = made.folder / "steps"
    count.unlink(missing_ok=True)
    words = [sys.executable, "-m", "tests.hub.cli.killed_at", str(at), str(count), "apply", str(path), "--auto-approve", "--actor", "alice"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env={**os.environ, "FLEETCAST_DIR": str(made.fleet)})
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode, int(count.read_text()) if count.exists() else 0


@pytest.mark.timeout(7200)
def test_an_apply_killed_at_any_step_of_its_database_is_whole_when_repeated(unused: Asked, tmp_path: Path) -> None:
    made = copied(unused, tmp_path / "made").made
    paths = [made.folder / "one.yaml", made.folder / "two.yaml"]
    for path, text in zip(paths, (ONE, TWO), strict=True):
        path.write_text(text)
    store = Store(f"sqlite:///{made.fleet / 'hub.sqlite'}")
    with Hub(made):
        for path in paths:
            assert made.run("apply", str(path), "--auto-approve").returncode == 0
        step, tried = 1, 0
        while step < STEPS_MAX:
            path, last = paths[tried % 2], store.last_event_id()
            code, _ = killed(made, step, path)
            done = here(made, "apply", str(path), "--auto-approve", "--actor", "bob")
            assert done.returncode == 0, (step, done.stderr)
            until("all to be obeyed", lambda path=path: here(made, "diff", str(path)).returncode == 0)  # type: ignore[misc]
            row = Blueprints(store.database).newest()
            assert row is not None
            assert (row.state, row.done, row.changes) == ("applied", CHANGES, CHANGES), step
            events = [one for one in store.events(last, 500) if one.kind in {"rollout", "device"}]
            subjects = Counter((one.kind, one.body.get("deployment") or one.body.get("node") or one.body.get("where")) for one in events)
            assert len(subjects) == CHANGES, (step, subjects)
            assert set(subjects.values()) == {1}, (step, subjects)
            tried += 1
            if code == 0:
                break
            print(f"killed at step {step}: whole", flush=True)
            step += EVERY
    store.close()
    assert tried > 20 // EVERY
    print(f"killed at {tried - 1} steps of an apply of {CHANGES} changes")
