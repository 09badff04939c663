"""Run seeds, as `make soak-sim` does: `python -m tests.simulation.whole_fleet 0-9999 [--shrink] [--keep] [--write]`."""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.whole_fleet.runs import Outcome, quiet, run_quietly, shrink


def seeds_of(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def outcomes(seeds: range, processes: int) -> Iterator[Outcome]:
    if processes == 1:
        yield from map(run_quietly, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_quietly, seeds, chunksize=4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=seeds_of)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shrink", action="store_true", help="shrink each seed that fails")
    parser.add_argument("--show", action="store_true", help="show what happened in each run")
    arguments = parser.parse_args()
    began, done, failed = time.monotonic(), 0, 0
    for outcome in outcomes(arguments.seeds, arguments.processes):
        done += 1
        if arguments.show:
            print(outcome, flush=True)
        if outcome.broken:
            failed += 1
            if arguments.shrink:
                with quiet():
                    outcome = shrink(outcome)
            if not arguments.show or arguments.shrink:
                print(outcome, flush=True)
        if done % 100 == 0:
            print(f"{done} seeds, {failed} failed, {done / (time.monotonic() - began) * 60:.0f} a minute", flush=True)
    print(f"{done} seeds, {failed} failed, {done / (time.monotonic() - began) * 60:.0f} a minute")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
