"""Fuzz one decoder for a while: `python -m tests.fuzz.fuzzing MODULE TARGET SECONDS FOLDER GUIDES`, for tests/fuzz/__main__.py.

With atheris (libFuzzer, guided by what lines an input reaches of GUIDES, packages with commas between) where it can be had; without it, the
same changes of the same inputs at random. FOLDER has the inputs to begin with, and takes what is found: new ones, and `fault-*`, one that
broke a promise. The last line on standard output is the number of executions.
"""

import importlib
import pkgutil
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from random import Random
from types import FrameType

from schemas.limits import MIB
from tests.fuzz.mutations import mutated
from tests.fuzz.target import RSS_MIB_MAX, SECONDS_MAX, Target, name_of

STUCK_SECONDS = 60  # By the wall's clock, on a busy machine: then the input does not end at all.


def _target(module: str, name: str) -> Target:
    targets: tuple[Target, ...] = importlib.import_module(module).TARGETS
    return next(one for one in targets if one.name == name)


def _import_all(packages: list[str]) -> None:
    for package in packages:
        found = importlib.import_module(package)
        for one in pkgutil.walk_packages(getattr(found, "__path__", ()), f"{package}."):
            importlib.import_module(one.name)


class TooSlow(BaseException):
    """Signals that one input took longer than any may: no handler of ours swallows it."""


def _guided(module: str, name: str, seconds: int, folder: Path, guides: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=guides):
        target = _target(module, name)
        if target.is_prepared:
            _import_all(guides)
    target.prepare()  # A whole fleet is made by much that no input reaches. Instrumented, that takes minutes.

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        otherwise = lambda given: atheris.Mutate(given, max_size)  # noqa: E731
        return mutated(data, Random(seed), target.form, bytes_max=max_size, otherwise=otherwise)

    def run(data: bytes) -> None:
        began = time.process_time()
        try:
            target(data)
            if time.process_time() - began > SECONDS_MAX:
                raise TooSlow(f"{time.process_time() - began:.1f} s of CPU, at most {SECONDS_MAX} are allowed")
        except (Exception, TooSlow):
            (folder / f"fault-{name_of(data)}").write_bytes(data)
            raise

    limits = [f"-max_total_time={seconds}", f"-timeout={STUCK_SECONDS}", f"-rss_limit_mb={RSS_MIB_MAX}", f"-max_len={target.bytes_max}"]
    how = [f"-artifact_prefix={folder}/fault-", f"-report_slow_units={STUCK_SECONDS}"]
    how += ["-print_final_stats=1", "-detect_leaks=0", "-len_control=0"]
    atheris.Setup(["fuzz", *limits, *how, str(folder)], run, custom_mutator=mutator)
    atheris.Fuzz()


def _at_random(module: str, name: str, seconds: int, folder: Path) -> int:
    target, chance, done = _target(module, name), Random(0), 0
    target.prepare()
    until = time.monotonic() + seconds
    known = [path.read_bytes() for path in sorted(folder.iterdir())] or [b""]
    signal.signal(signal.SIGVTALRM, _too_slow)
    while time.monotonic() < until:
        data = mutated(chance.choice(known), chance, target.form, bytes_max=target.bytes_max)
        if not tried(target, data):
            (folder / f"fault-{name_of(data)}").write_bytes(data)
            return done
        done += 1
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > RSS_MIB_MAX * MIB:
            (folder / f"fault-memory-{name_of(data)}").write_bytes(data)
            return done
    return done


def tried(target: Target, data: bytes) -> bool:
    """Return whether one input ended as it may, in time; print what happened where it did not."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS_MAX)
    try:
        target(data)
    except (Exception, TooSlow):
        traceback.print_exc()
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return True


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


if __name__ == "__main__":
    module, name, seconds, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    try:
        import atheris as _  # noqa: F401
    except ImportError:
        print(f"stat::number_of_executed_units: {_at_random(module, name, seconds, folder)}", file=sys.stderr)
    else:
        _guided(module, name, seconds, folder, sys.argv[5].split(","))
