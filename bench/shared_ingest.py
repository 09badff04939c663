"""Whether two processes that add windows to one PostgreSQL lose any, one of them killed in the middle: beside one process and SQLite."""

import argparse
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from bench.figures import Figure, write
from hub.database.store import Store, WindowRow
from schemas.names import sha256
from tests.databases import Server, scratch

WINDOWS, BATCH = 20_000, 200
HOURS, COHORTS = 12, 3
BINS = 20
KILLED_AFTER = 15  # Batches that the first process has acknowledged.
SENT_AGAIN = 5  # Of those; a broker may do so.


@dataclass(frozen=True, slots=True)
class Result:
    """What two processes left, beside what was sent."""

    counted: int
    differing: int  # Intervals whose sums are not those of one process.
    unacknowledged: int  # Batches of the killed process.
    twice: int  # Windows that came again after they were counted.


def batch(number: int) -> list[WindowRow]:
    """Some windows, the same each time: all batches add to the same intervals."""
    rng = Random(number)
    found = []
    for one in range(number * BATCH, (number + 1) * BATCH):
        counts = [rng.randrange(-50, 1000) for _ in range(BINS)]
        key = sha256(b"release"), "delay", f"c{one % COHORTS}", one % HOURS * 3600, 3600
        found.append(WindowRow(sha256(one.to_bytes(8))[:16], *key, counts, rows=100, noise_units=1.0, group=rng.randrange(256)))
    return found


def add(url: str, numbers: Sequence[int], acknowledge: "Connection | None") -> None:
    """Add batches one after the other, each acknowledged when it is durable: its number, and how many windows were new."""
    store = Store(url)
    for number in numbers:
        fresh = sum(store.add_windows(batch(number)))
        if acknowledge is not None:
            acknowledge.send((number, fresh))
    store.close()


def sums(url: str) -> dict[Any, Any]:
    """What the intervals hold."""
    store = Store(url)
    found = {
        (row.cohort, row.start): (row.windows, row.rows, row.noise_units, row.counts, row.subgroups) for row in store.intervals("delay")
    }
    store.close()
    return found


def measure(server: Server, folder: Path) -> Result:
    """Have two processes add all windows, kill the first in the middle, and send again what it has not acknowledged."""
    url, alone = server.make("shared"), f"sqlite:///{folder / 'alone.sqlite'}"
    for where in (url, alone):
        Store(where).create()
    batches = range(WINDOWS // BATCH)
    context = multiprocessing.get_context("spawn")
    roads = [context.Pipe(duplex=False) for _ in range(2)]
    shares = [batches[::2], batches[1::2]]
    processes = [context.Process(target=add, args=(url, share, sender)) for share, (_, sender) in zip(shares, roads, strict=True)]
    for process in processes:
        process.start()
    for _, sender in roads:
        sender.close()
    acknowledged = [roads[0][0].recv()[0] for _ in range(KILLED_AFTER)]
    time.sleep(Random(KILLED_AFTER).random() * 0.02)
    os.kill(processes[0].pid or 0, signal.SIGKILL)
    for process in processes:
        process.join()
    while roads[0][0].poll():
        try:
            acknowledged.append(roads[0][0].recv()[0])
        except EOFError:
            break
    left = [number for number in shares[0] if number not in acknowledged]
    receiver, sender = context.Pipe(duplex=False)
    again = context.Process(target=add, args=(url, [*acknowledged[-SENT_AGAIN:], *left], sender))
    again.start()
    sender.close()
    fresh = [receiver.recv()[1] for _ in range(SENT_AGAIN + len(left))]
    again.join()
    add(alone, batches, None)
    ours, expected = sums(url), sums(alone)
    differing = sum(ours.get(key) != value for key, value in expected.items()) + len(ours.keys() - expected.keys())
    counted = sum(value[0] for value in ours.values())
    return Result(counted, differing, len(left), BATCH * len(fresh) - sum(fresh))


def figure(result: Result) -> Figure:
    """The row of `bench/results.json`."""
    lost = abs(WINDOWS - result.counted) + result.differing
    return Figure("ingest.two_writers_lost", lost, "windows", "= 0", "windows sent", WINDOWS, "make test-postgres")


def main() -> int:
    """Measure it, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the figure to bench/results.json")
    arguments = parser.parse_args()
    folder = scratch()
    server = Server(folder).start()
    try:
        with tempfile.TemporaryDirectory() as beside:
            result = measure(server, Path(beside))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    row = figure(result)
    print(
        f"{row.name} {row.value:g} of {WINDOWS}: {result.unacknowledged} batches of a killed process were sent again,"
        f" {result.twice} windows came twice, {result.differing} intervals differ from one process's"
    )
    if arguments.write:
        write([row])
    return 1 if row.value else 0


if __name__ == "__main__":
    raise SystemExit(main())
