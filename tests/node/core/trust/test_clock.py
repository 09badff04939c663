"""Laws of the time that trust goes by."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from node.core.trust.clock import BUILD_TIME, JUMP_SECONDS_MAX, SKEW_SECONDS_MAX, floor_of, is_known, trusted_now

ROOT = Path(__file__).parents[4]
SECONDS = st.integers(-(2**33), 2**36)


@given(wall=SECONDS, floor=SECONDS)
def test_time_is_never_before_the_wall_clock_or_the_program_itself(wall: int, floor: int) -> None:
    assert trusted_now(wall, floor) >= max(wall, BUILD_TIME)


@given(wall=st.integers(-(2**33), BUILD_TIME - 1), floor=SECONDS)
def test_clock_that_was_never_set_goes_by_the_newest_signature(wall: int, floor: int) -> None:
    assert trusted_now(wall, floor) == max(floor, BUILD_TIME)
    assert not is_known(wall, floor)


@given(wall=st.integers(BUILD_TIME, 2**36), floor=SECONDS)
def test_working_clock_is_never_pushed_further_than_a_jump(wall: int, floor: int) -> None:
    assert wall <= trusted_now(wall, floor) <= wall + JUMP_SECONDS_MAX


@given(wall=st.integers(BUILD_TIME, 2**36), behind=st.integers(0, JUMP_SECONDS_MAX))
def test_clock_that_lags_a_little_is_lifted_to_the_signature(wall: int, behind: int) -> None:
    assert trusted_now(wall, wall + behind) == wall + behind
    assert is_known(wall, wall + behind) == (behind <= SKEW_SECONDS_MAX)


@given(first=SECONDS, second=SECONDS, floor=SECONDS)
def test_working_clock_that_goes_on_makes_time_go_on(first: int, second: int, floor: int) -> None:
    earlier, later = sorted(max(one, BUILD_TIME) for one in (first, second))

    assert trusted_now(earlier, floor) <= trusted_now(later, floor)


def test_timestamp_proves_the_moment_at_which_it_was_signed() -> None:
    assert floor_of(datetime(2026, 6, 2, 12, tzinfo=UTC)) == int(datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp())


MIXED = """
from node.core.trust.clock import MonotonicSeconds, WallSeconds

wall, monotonic = WallSeconds(1.8e9), MonotonicSeconds(3.0)
def wait_until(moment: MonotonicSeconds) -> None: ...
wait_until(wall)
wait_until(5.0)
wait_until(wall + 60.0)
print(wall >= monotonic)
print(monotonic < wall)
print(wall - monotonic)
print(monotonic - 5.0)
wait_until(monotonic + 60.0)
seconds: float = monotonic - MonotonicSeconds(1.0)
"""


def test_a_moment_of_one_clock_that_meets_the_other_is_refused_by_mypy(tmp_path: Path) -> None:
    (tmp_path / "mixed.py").write_text(MIXED)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "--follow-imports=silent", "mixed.py"]

    said = subprocess.run(command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    refused = {int(line.split(":")[1]) for line in said.stdout.splitlines() if ": error:" in line}

    assert refused == {6, 7, 8, 9, 10, 11, 12}, said.stdout
