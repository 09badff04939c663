"""A fleet in a folder of its own, and the embedded broker, for tests of the hub's service."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import brokers
from tests.hub.hubs import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[brokers.Broker]:
    with brokers.running("embedded", tmp_path / "broker") as running:
        yield running
