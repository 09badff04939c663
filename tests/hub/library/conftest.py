"""Fleets that tests of the Python door share."""

from collections.abc import Iterator

import pytest

import fleetcast
from tests.hub.cli.fleets import Made, copied, make
from tests.hub.library.scenes import MODEL, Running, estimator, frame, key_of, report, running

HUBS = "of-the-hub"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fleet with two releases of a trained model, and three nodes that have reported."""
    made = make(tmp_path_factory.mktemp("made"), MODEL, "arrivals")
    with fleetcast.open(made.fleet) as fleet:
        fleet.publish(estimator(), name=MODEL, version="1.0.0", reference=frame(), blocks="day", signer=key_of(made))
        fleet.publish(estimator(2.0), name=MODEL, version="1.1.0", signer=key_of(made))
    copied(made, tmp_path_factory.getbasetemp() / HUBS)
    report(made, ("n1", {"site": "jfk"}), ("n2", {"site": "jfk", "tier": "lab"}), ("n3", {"site": "lga"}))
    return made


@pytest.fixture
def fleet(made: Made) -> Iterator[fleetcast.Fleet]:
    """That fleet, open."""
    with fleetcast.open(made.fleet) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def hub(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A fleet of the same releases, whose hub runs and has one node."""
    with running(Made(tmp_path_factory.getbasetemp() / HUBS)) as found:
        yield found
