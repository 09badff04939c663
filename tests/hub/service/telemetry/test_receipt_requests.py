"""A hub asks for receipts that it lacks, and takes them in whatever order they come."""

from collections.abc import Callable

from hub.core.rollouts.fleet import Node
from hub.core.rollouts.listening import Listened
from hub.database.hearing import Hearing
from hub.service.rollouts.listening import ListeningClock
from hub.service.telemetry.receipt_requests import AT_ONCE_MAX, LOOK_SECONDS, ReceiptRequests
from schemas.errors import Unreachable
from schemas.names import sha256
from schemas.state import Slot, State
from tests import brokers
from tests.hub.hubs import Device, Fleet, until


def serving(name: str, status: str = "online") -> Node:
    """A node that says that it serves a release, of which no receipt has come."""
    slot = Slot(model="delay", state="active", serving=sha256(b"1"), serving_version="1.0.0")
    state = State.model_validate({"node": name, "session": 1, "status": status, "at": 1, "public_key": b"key", "slots": (slot,)})
    return Node(state, state.status, 1, 1, b"key", heard_at=Listened(0.0))


def asked_in(fleet: Fleet, nodes: dict[str, Node], looks: int, *, ask: Callable[[str], None] | None = None) -> list[list[str]]:
    """Return which nodes each look asks."""
    now, asked = [0.0], list[str]()
    listening = ListeningClock(Hearing(fleet.store.database), monotonic=lambda: now[0])
    listening.connected(1)
    listening.subscribed(denied=False)
    listening.took(0, waited=1.0, full=False)
    requests = ReceiptRequests(nodes, ask=ask or asked.append, listening=listening, monotonic=lambda: now[0])
    found = []
    for _ in range(looks):
        now[0] += LOOK_SECONDS
        requests.tick()
        found.append(asked.copy())
        asked.clear()
    return found


def test_a_node_is_asked_ever_more_seldom_and_only_while_it_is_there(fleet: Fleet) -> None:
    nodes = {"n1": serving("n1"), "n2": serving("n2", status="disconnected")}

    asked = asked_in(fleet, nodes, looks=16)

    assert [number for number, names in enumerate(asked) if names == ["n1"]] == [1, 3, 7, 15]
    assert {name for names in asked for name in names} == {"n1"}


def test_a_fleet_of_which_all_is_lost_is_asked_in_parts(fleet: Fleet) -> None:
    nodes = {f"n{number}": serving(f"n{number}") for number in range(AT_ONCE_MAX + 50)}

    asked = asked_in(fleet, nodes, looks=3)

    assert [len(names) for names in asked] == [0, AT_ONCE_MAX, 50]


def test_a_request_that_cannot_be_sent_is_made_later(fleet: Fleet) -> None:
    sent = list[str]()

    def ask(name: str) -> None:
        sent.append(name)
        if len(sent) == 1:
            raise Unreachable("too much waits already")

    asked_in(fleet, {"n1": serving("n1")}, looks=3, ask=ask)

    assert sent == ["n1", "n1"]


def test_an_older_receipt_that_comes_late_does_not_undo_a_newer_one(fleet: Fleet, embedded: brokers.Broker) -> None:
    earlier, later = fleet.publish("1.0.0"), fleet.publish("1.1.0")
    with fleet.hub(embedded) as hub:
        device = Device.connect("n1", embedded, fleet)
        for sequence, manifest in ((1, later), (0, earlier), (1, later)):  # the first was lost, and all are sent again
            device.sequence = sequence
            device.sign("serving", manifest)
        until("both", lambda: len(fleet.store.receipts()) == 2)
        until("the newer one", lambda: hub._ingest.nodes["n1"].serving["delay"].version == later.version)
        device.client.link.close()
