"""A hub that does not know what a node runs, which has signed it long ago: it asks, and the node signs it once more."""

import shutil
from collections.abc import Iterator

import pytest

from hub.core.rollouts.fleet import heard
from hub.core.rollouts.listening import Listened
from hub.database.device_lives import DeviceLives
from hub.database.store import Store
from tests.simulation.whole_fleet.fleet import Fleet
from tests.simulation.whole_fleet.operations import Plan, operation
from tests.simulation.whole_fleet.runs import quiet
from tests.simulation.whole_fleet.template import scratch


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    start = operation("start", 90.0, model="delay", version="1.0.0", stages="100", label="", force=False)
    folder = scratch()
    with quiet():
        made = Fleet(3, Plan(2, 1, (start,)), folder)
        made.begin()
        made.do(start)
        yield made
        made.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_hub_without_database_and_broker_memory_learns_what_nodes_run(fleet: Fleet) -> None:
    assert [fleet.believed(machine, "delay") for machine in fleet.machines] == ["1.0.0", "1.0.0"]
    starts = [machine.starts for machine in fleet.machines]
    fleet.hub.kill()
    for path in fleet.hub.folder.glob("hub.sqlite*"):
        path.unlink()
    fleet.broker.stop(forget=True)
    fleet.broker.start()
    fleet.run(120.0)  # Nodes give their receipts to a broker that nobody reads.
    fleet.hub.start()
    fleet.run(60.0)
    lost = [fleet.believed(machine, "delay") for machine in fleet.machines]

    fleet.run(1200.0)  # Time of listening passes more slowly here: turns are far apart.

    assert lost == [None, None]
    assert [fleet.believed(machine, "delay") for machine in fleet.machines] == ["1.0.0", "1.0.0"]
    assert [machine.starts for machine in fleet.machines] == starts


def test_new_hardware_that_spoke_before_it_was_let_in_is_heard_of(fleet: Fleet) -> None:
    fleet._replace(0)
    fleet.run(90.0)
    node, agent = fleet.hub.service._ingest.nodes["n0"], fleet.machines[0].agent  # type: ignore[union-attr]
    refused, starts = node.public_key, fleet.machines[0].starts
    assert not heard(node, listened=Listened(node.heard_at + 1), silent_seconds=3600)
    assert [one.code for one in agent._findings.all()] == ["receipt.key_changed"], "the device itself says what is wrong"
    store = Store(f"sqlite:///{fleet.hub.folder / 'hub.sqlite'}")  # As `fleetcast nodes replace n0` does it.
    DeviceLives(store.database).expect("n0", fingerprint=None, expires_at=int(fleet.hub.clocks.wall()) + 3600)
    store.close()
    fleet.run(900.0)

    assert fleet.hub.service._ingest.nodes["n0"].public_key != refused  # type: ignore[union-attr]
    assert agent._findings.all() == ()
    assert (fleet.believed(fleet.machines[0], "delay"), fleet.machines[0].starts) == ("1.0.0", starts)
