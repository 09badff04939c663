"""Run the fault suite, as `make test-faults` does: `python -m tests.faults [--write]`, or one case alone: a failure prints how."""

import argparse
import json
import os
import subprocess
import sys
import time

import pytest

from bench import tables
from bench.figures import Figure, write
from tests.faults import shim

COMMAND = "make test-faults"


class Counter:
    """Adds up what the tests have counted, in whichever process they ran."""

    def __init__(self) -> None:
        self.survived, self.lost, self.skipped = 0, 0, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.skipped += 1
        if report.when != "call":
            self.lost += report.failed
            return
        counted = [value for name, value in report.user_properties if name == "faults"]
        lost = sum(lost for _, lost in counted)
        self.survived += sum(survived for survived, _ in counted)
        self.lost += max(lost, 1) if report.failed else lost


def alone(case: str, module: str) -> int:
    """Run one case of the simulated fleet, and print what came of it."""
    env = {**os.environ, "LD_PRELOAD": str(shim.library())}
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", module, case], env=env, check=True, capture_output=True)
    found = json.loads(done.stdout)
    print(f"struck {found['struck']} times", *found["broken"], sep="\n")
    return 1 if found["broken"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", help="one case, as JSON")
    parser.add_argument("--module", default="tests.faults.crashes", help="of that case")
    parser.add_argument("--write", action="store_true", help="write the counts to bench/results.json, and into the pages")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.case:
        return alone(arguments.case, arguments.module)
    counter, began = Counter(), time.monotonic()
    code = pytest.main(
        ["-m", "faults", "tests/faults", "-n", str(arguments.processes), "--dist", "worksteal", "--durations=20"], plugins=[counter]
    )
    skipped = f", {counter.skipped} skipped or known" if counter.skipped else ""
    print(f"{counter.survived} survived, {counter.lost} lost{skipped}; {time.monotonic() - began:.0f} seconds")
    if arguments.write and code in (0, 1):
        rows = [
            Figure("faults.survived", counter.survived, "faults", "", "", None, COMMAND),
            Figure("faults.lost", counter.lost, "faults", "0", "", None, COMMAND),
        ]
        write(rows)
        tables.main([])
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main())
