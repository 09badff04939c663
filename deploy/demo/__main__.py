"""Run the whole path on real input, narrated and checked: `make demo`. Exits non-zero when a claim does not hold."""

import sys
from pathlib import Path

from deploy.demo.story import Story
from deploy.demo.telling import run

if __name__ == "__main__":
    sys.exit(run(Path(".demo").resolve(), Path("demo-report.json"), Story))
