"""A request for windows is read as it was written, and nothing else is."""

import pytest

from schemas.errors import Refused
from schemas.window_request import NUMBER_MAX, SECONDS_MAX, WindowRequest


@pytest.mark.parametrize("request_", [WindowRequest(1, 0, 0), WindowRequest(NUMBER_MAX, SECONDS_MAX, 20), WindowRequest(7, None, 3)])
def test_a_request_is_read_as_it_was_written(request_: WindowRequest) -> None:
    assert WindowRequest.parse(str(request_)) == request_


def test_times_that_no_clock_gives_are_written_as_the_nearest_that_is_read() -> None:
    assert str(WindowRequest(1, 10 * SECONDS_MAX, -5)) == f"1 {SECONDS_MAX} 0"


@pytest.mark.parametrize(
    "text", ["", "7", "7 1", "0 1 1", "7 1 1 1", "7 -1 1", "7 ALL 1", "99999999999 1 1", "4294967295 1 1", "7 \u0661 1"]
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="must look like"):
        WindowRequest.parse(text)
