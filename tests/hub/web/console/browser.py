"""Look at the console in a real browser, and write what was measured: `python -m tests.hub.web.console.browser --write`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Figure, write

COMMAND = "make test-console"


def main() -> int:
    """Run the suite; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub.web.console.browser", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write bench/results.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "seen.json"
        suite = Path(__file__).with_name("test_in_browser.py")
        environment = {**os.environ, "CONSOLE_SEEN": str(seen)}
        done = subprocess.run([sys.executable, "-m", "pytest", "-n", "0", "-m", "console", str(suite)], check=False, env=environment)
        found = json.loads(seen.read_text()) if seen.exists() else {}
    event, axe = found.get("event_s"), found.get("axe_serious")
    print(f"console: a receipt is on the screen after {event if event is not None else 'no'} s at most, {axe} serious faults by axe")
    if options.write:
        figures = []
        if event is not None:
            figures.append(
                Figure(
                    "console.event_s", round(event, 2), "s, receipt to the cell on the screen, worst of 3", "at most 2", "", None, COMMAND
                )
            )
        if axe is not None:
            figures.append(Figure("console.axe_serious", axe, "serious faults on all pages, light and dark", "0", "", None, COMMAND))
        write(figures)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
