"""Run seeds, as `make soak-sim` does: `python -m tests.simulation.whole_fleet 0-9999 [--shrink] [--write]`."""

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from bench.figures import Figure, write
from tests.simulation.whole_fleet.runs import Outcome, quiet, run_quietly, shrink

COMMAND = "make soak-sim"


def seeds_of(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def outcomes(seeds: range, processes: int) -> Iterator[Outcome]:
    if processes == 1:
        yield from map(run_quietly, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run_quietly, seed) for seed in seeds]):
            yield future.result()


def _smallest(outcome: Outcome) -> Outcome:
    with quiet():
        return shrink(outcome)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=seeds_of)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shrink", action="store_true", help="shrink each seed that fails")
    parser.add_argument("--show", action="store_true", help="show what happened in each run")
    parser.add_argument("--write", action="store_true", help="write what was measured to bench/results.json")
    arguments = parser.parse_args()
    began, done, failed = time.monotonic(), 0, 0
    for outcome in outcomes(arguments.seeds, arguments.processes):
        done += 1
        if arguments.show and not outcome.broken:
            print(outcome, flush=True)
        if outcome.broken:
            failed += 1
            print(_smallest(outcome) if arguments.shrink else outcome, flush=True)
        if done % 25 == 0:
            print(f"{done} seeds, {failed} failed, {done / (time.monotonic() - began) * 60:.0f} a minute", flush=True)
    a_minute = done / (time.monotonic() - began) * 60
    print(f"{done} seeds, {failed} failed, {a_minute:.0f} a minute")
    if arguments.write:
        write(
            [
                Figure("sim.seeds", done, "seeds", "10000", "", None, COMMAND),
                Figure("sim.seeds_per_min", a_minute, "seeds a minute", "", "", None, COMMAND),
                Figure("sim.invariant_failures", failed, "seeds", "0", "", None, COMMAND),
            ]
        )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
