"""Windows add up to the same interval however they arrive, by sub-group too, and late ones are counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.drift.intervals import Sums, add_up, merge, subgroups
from hub.core.drift.windows import Taken

windows = st.builds(
    lambda rows, counts: Taken(0, 3600, rows, 1, None, np.array(counts, np.int64)),
    st.integers(0, 10_000),
    st.lists(st.integers(-500, 500), min_size=3, max_size=3),
)


@given(st.lists(st.tuples(windows, st.integers(0, 255)), min_size=2, max_size=20), st.data())
def test_windows_in_two_batches_add_up_to_what_one_batch_is(members: list[tuple[Taken, int]], data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(members) - 1))
    whole, first, second = (
        add_up([one for one, _ in some], [place for _, place in some]) for some in (members, members[:at], members[at:])
    )

    merged = merge(first, second, tested=True)

    assert merged.late == len(members) - at
    assert (merged.windows, merged.rows, merged.noise_units) == (whole.windows, whole.rows, whole.noise_units)
    assert merged.counts.tolist() == whole.counts.tolist()
    assert merged.groups.tolist() == whole.groups.tolist()
    assert subgroups(merged).counts.sum(axis=0).tolist() == whole.counts.tolist()


def test_windows_of_another_release_s_bins_are_our_bug_and_loud() -> None:
    two, three = (add_up([Taken(0, 3600, 1, 1, None, np.zeros(bins, np.int64))], [0]) for bins in (2, 3))

    with pytest.raises(ValueError, match="same shape"):
        merge(two, three, tested=False)


def test_an_interval_of_a_first_hub_is_one_sub_group() -> None:
    sums = Sums(2, 10, 0.0, 2.0, np.array([4, 6]), np.zeros(0, np.int64))

    found = subgroups(sums)

    assert (found.windows, found.rows, found.counts.tolist()) == ((2,), (10,), [[4, 6]])
