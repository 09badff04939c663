"""Count faults: a test says how many were survived, and how many runs lost something."""

from collections.abc import Callable

import pytest


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Callable[[int, int], None]:
    """Add to what `make test-faults` prints at its end."""

    def add(survived: int, lost: int) -> None:
        request.node.user_properties.append(("faults", (survived, lost)))

    return add
