"""Fuzz every decoder of what strangers send, as `make fuzz` does: `python -m tests.fuzz [TARGET...] [--seconds 60] [--keep] [--write]`."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import tables
from bench.figures import Figure, write
from tests.fuzz.target import CORPUS, Target, name_of
from tests.fuzz.targets import TARGETS

BESIDE = Path(__file__).parents[2] / ".fuzz"  # Where `make fuzz` installs atheris.
GRACE_SECONDS = 300  # To import, to run what is known, and to end.
PREPARED_GRACE_SECONDS = 1200  # The same where a fleet is made first.
IN_MEMORY = Path("/dev/shm")  # noqa: S108  # A node syncs what it keeps, a thousand times a second here.
KEPT_FILES_MAX, KEPT_BYTES_MAX = 16, 20_000  # Of one target: the corpus stays below a megabyte.


@dataclass(frozen=True, slots=True)
class Result:
    """What fuzzing one target came to."""

    name: str
    executions: int
    faults: tuple[Path, ...]
    text: str


def fuzz(target: Target, seconds: int, folder: Path) -> Result:
    """Fuzz one target in a process of its own, at the lowest priority."""
    folder.mkdir(parents=True)
    for data in target.inputs():
        (folder / name_of(data)).write_bytes(data)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BESIDE), str(BESIDE.parent)]), "OMP_NUM_THREADS": "1"}
    scratch = folder.parent / f"{target.name}.tmp"
    scratch.mkdir()
    environment["TMPDIR"] = str(scratch)
    command = [sys.executable, "-m", "tests.fuzz.fuzzing", target.run.__module__, target.name, str(seconds), str(folder)]
    command.append(",".join(target.guides))
    grace = PREPARED_GRACE_SECONDS if target.is_prepared else GRACE_SECONDS
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=seconds + grace, check=False)
        code, text = done.returncode, done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as error:
        code, text = -1, f"did not end {grace} s after its time\n" + (error.stderr or b"").decode("utf-8", "replace")
    shutil.rmtree(scratch, ignore_errors=True)
    faults = tuple(sorted(folder.glob("fault-*")))
    found = re.findall(r"number_of_executed_units: *(\d+)", text) or re.findall(r"^#(\d+)\s", text, re.MULTILINE)
    if code != 0 and not faults:
        faults = (folder / "fault-without-input",)
        faults[0].write_bytes(b"")
    return Result(target.name, int(found[-1]) if found else 0, faults, text)


def keep(target: Target, folder: Path) -> None:
    """Put the smallest inputs that reach something new into the corpus, and every fault."""
    seeds = {name_of(data) for data in target.seeds()}
    place = CORPUS / target.name
    before = {path.name for path in target.kept()}
    room = KEPT_BYTES_MAX - sum(path.stat().st_size for path in target.kept())
    count = KEPT_FILES_MAX - len(before)
    for path in sorted(folder.iterdir(), key=lambda one: one.stat().st_size):
        data = path.read_bytes()
        name = name_of(data)
        is_fault = path.name.startswith("fault-")
        if not data or name in seeds | before or not (is_fault or (count > 0 and len(data) <= room)):
            continue
        place.mkdir(parents=True, exist_ok=True)
        (place / (f"fault-{name}" if is_fault else name)).write_bytes(data)
        room, count = room - len(data), count - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--keep", action="store_true", help="put what reached new lines into tests/fuzz/corpus")
    parser.add_argument("--write", action="store_true", help="write the figures of a whole run to bench/results.json, and into the pages")
    arguments = parser.parse_args()
    wanted = [TARGETS[name] for name in arguments.targets] or list(TARGETS.values())
    began, faults, executions = time.monotonic(), 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder,
        ThreadPoolExecutor(arguments.processes) as pool,
    ):
        begun = [pool.submit(fuzz, one, arguments.seconds, Path(folder) / one.name) for one in wanted]
        for target, running in zip(wanted, begun, strict=True):
            result = running.result()
            executions, faults = executions + result.executions, faults + len(result.faults)
            print(f"{result.name:28} {result.executions:9} executions, {len(result.faults)} faults", flush=True)
            for path in result.faults:
                print("\n".join(result.text.splitlines()[-40:]))
                print(f"  {path.name}: {path.read_bytes()[:400]!r}", flush=True)
            if arguments.keep:
                keep(target, Path(folder) / target.name)
    engine = "atheris" if (BESIDE / "atheris").is_dir() else "at random, without atheris"
    print(f"{len(wanted)} decoders, {executions} executions ({engine}), {faults} faults, in {time.monotonic() - began:.0f} seconds")
    if arguments.write and not arguments.targets and not faults:
        seconds = f"{len(wanted)} decoders, {arguments.seconds} s each, {engine}"
        write([Figure("fuzz.executions", executions, "inputs", "0 faults", seconds, None, "make fuzz")])
        tables.main([])
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
