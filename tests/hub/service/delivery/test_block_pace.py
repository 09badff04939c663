"""A rate of blocks is kept in every second, whatever their sizes and however irregularly the loop looks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.service.delivery.block_pace import PUBLISHES_PER_SECOND_MAX, BlockPace
from schemas.limits import BLOCK_BYTES_MAX

RATE = 350_000.0
LOOKS = st.lists(
    st.tuples(st.floats(0.0, 0.4), st.lists(st.integers(1, BLOCK_BYTES_MAX), min_size=48, max_size=48)), min_size=5, max_size=40
)


@settings(max_examples=20)
@given(LOOKS)
def test_no_second_has_more_than_the_rate_and_one_block(looks: list[tuple[float, list[int]]]) -> None:
    pace, now, sent = BlockPace(RATE), 1000.0, list[tuple[float, int]]()
    for later, sizes in looks:
        now += later
        for size in sizes[: pace.room(now, len(sizes))]:
            pace.spent(size)
            sent.append((now, size))
    for at, _ in sent:
        second = [size for when, size in sent if at <= when < at + 1]
        assert sum(second) <= RATE + BLOCK_BYTES_MAX
        assert len(second) <= PUBLISHES_PER_SECOND_MAX + 1


def test_the_rate_is_reached_and_waits_are_as_long_as_needed() -> None:
    pace, now, sent = BlockPace(RATE), 0.0, 0
    while now < 60:
        if pace.room(now, 48):
            pace.spent(BLOCK_BYTES_MAX)
            sent += BLOCK_BYTES_MAX
        now += pace.wait_seconds(now) + 1e-6
    assert sent >= 0.99 * 60 * RATE


def test_without_a_rate_nothing_waits_and_a_clock_set_back_stops_nothing() -> None:
    assert BlockPace(None).room(0.0, 48) == 48
    pace = BlockPace(RATE)
    pace.room(5000.0, 1)
    pace.spent(BLOCK_BYTES_MAX)
    pace.room(0.0, 1)
    assert pace.room(1.0, 1) == 1
