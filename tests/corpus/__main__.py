"""Push the whole corpus through, as `make test-corpus` does: `python -m tests.corpus [--tenth] [--write]`."""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

from bench import tables
from bench.figures import write
from tests.corpus.cases import collect, tenth
from tests.corpus.counted import Result, faults, figures, results, share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenth", action="store_true", help="only the tenth that `make test` has")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help="write the counts to bench/results.json, and into the pages")
    arguments = parser.parse_args()
    began, found = time.monotonic(), list[Result]()
    if arguments.tenth:
        found = results(tenth(collect()))
    else:
        with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            shares = [pool.submit(share, number, arguments.processes, every=200) for number in range(arguments.processes)]
            found = [one for each in shares for one in each.result()]
    rows = figures(found)
    for row in rows:
        print(f"{row.name:30} {row.value:6g}  {row.peer} {row.goal}")
    print(f"{len(found)} tests in {time.monotonic() - began:.0f} seconds")
    wrong = faults(found)
    for line in wrong:
        print(line)
    if arguments.write and not arguments.tenth:
        write(rows)
        tables.main([])
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
