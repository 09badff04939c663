"""Run a language model on one device, over a bad link: `make demo-slm`. Exits non-zero when a claim does not hold."""

import sys
from pathlib import Path

from deploy.demo.telling import run
from deploy.demo_slm.story import Story

if __name__ == "__main__":
    sys.exit(run(Path(".demo-slm").resolve(), Path("demo-slm-report.json"), Story))
