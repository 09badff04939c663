"""Fixtures that more than one folder of tests uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import brokers


@pytest.fixture(params=brokers.KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[brokers.Broker]:
    """Each kind of broker in turn, running."""
    with brokers.running(request.param, tmp_path / "broker") as running:
        yield running


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[brokers.Broker]:
    """mosquitto with mutual TLS and the generated access lists, running."""
    with brokers.running("mosquitto", tmp_path / "broker") as running:
        yield running
