"""How long `fleetcast quickstart` takes to a node's answer, from a wheel of this commit in an environment of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from bench.figures import Figure, median

CHECKOUT = Path(__file__).parents[1]
RUNS = 3
SECONDS_MAX = 180.0
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "FLEETCAST_"))}


def measure() -> list[Figure]:
    """Install, and start fleets one after another, each in a new folder. What is not committed is not measured."""
    with tempfile.TemporaryDirectory(prefix="fleetcast-quickstart-") as name:
        folder = Path(name)
        program = _installed(folder)
        seconds = [_answered(program, folder / f"plant-{number}") for number in range(RUNS)]
    print(f"quickstart: {', '.join(f'{one:.1f} s' for one in seconds)}", file=sys.stderr)
    return [Figure("quickstart.seconds", round(median(seconds), 2), f"s, median of {RUNS} new fleets", "at most 30", "", None)]


def _installed(folder: Path) -> Path:
    source, place = folder / "source", folder / "venv"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", CHECKOUT.as_uri(), source], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("fleetcast-*.whl")
    venv.create(place)
    into = [*pip, "--python", place / "bin" / "python", "install", "--quiet"]
    locks = [word for side in ("hub", "node") for word in ("-r", CHECKOUT / "requirements" / f"{side}.txt")]
    subprocess.run([*into, "--require-hashes", *locks], check=True, env=ENVIRONMENT)
    subprocess.run([*into, "--no-deps", "--no-index", wheel], check=True, env=ENVIRONMENT)
    return place / "bin" / "fleetcast"


def _answered(program: Path, plant: Path) -> float:
    """Return the seconds from the command to the line with the answer.

    Raises:
        SystemExit: there is no answer, or the fleet does not end well.
    """
    began = time.monotonic()
    command = [program, "quickstart", plant]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=plant.parent, env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    watchdog = subprocess.Popen(["sh", "-c", f"sleep {SECONDS_MAX:g}; kill -TERM {process.pid}"], start_new_session=True)
    try:
        for line in process.stdout:
            if " answered: " in line:
                seconds = time.monotonic() - began
                break
        else:
            raise SystemExit(f"quickstart ended with {process.wait()} and without an answer")
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        if (code := process.wait(60)) != 0:
            raise SystemExit(f"quickstart gave an answer, and ended with {code} at Ctrl-C")
        return seconds
    finally:
        os.killpg(watchdog.pid, signal.SIGKILL)
        watchdog.wait()
        if process.poll() is None:
            process.kill()
            process.wait()
