"""The agent's inbox holds what counts, within bounds, whatever a broker sends."""

import queue

import pytest

from fleetcast.mqtt_connection import Connected, Message
from node.agent.events import TransferStalled
from node.agent.inbox import BYTES_MAX, MESSAGES_MAX, Inbox
from node.core.activation.lifecycle import Target

TRUST = "fleetcast/v1/plant/trust"
BLOCK = "fleetcast/v1/plant/block/00"


def message(topic: str, payload: bytes, *, mid: int = 0) -> Message:
    return Message(topic, payload, False, mid, 1 if mid else 0, 1)


def drained(inbox: Inbox) -> list[object]:
    found: list[object] = []
    while True:
        try:
            found.append(inbox.get_nowait())
        except queue.Empty:
            return found


def test_of_a_document_the_newest_waits_and_the_others_are_acknowledged() -> None:
    inbox = Inbox()
    sent = [message(TRUST, bytes([number]), mid=number) for number in range(1, 101)]
    for one in sent:
        inbox.put(one)

    assert [one.mid for one in inbox.let_go()] == list(range(1, 100))
    assert drained(inbox) == [sent[-1]]
    assert inbox.let_go() == []


def test_blocks_and_requests_all_wait_in_their_order() -> None:
    inbox = Inbox()
    sent = [message(BLOCK, b"1"), message(BLOCK, b"2"), message("fleetcast/v1/plant/node/n/settings", b""), message(TRUST, b"")]
    for one in sent:
        inbox.put(one)

    assert drained(inbox) == sent


def test_what_the_agents_own_parts_report_never_waits_behind_messages() -> None:
    inbox, connected = Inbox(), Connected(False, 1000, True)
    stalled = TransferStalled("m", Target(version="1.0.0", digest=bytes(32)), None, "")
    for event in (connected, message(BLOCK, b"1"), stalled):
        inbox.put(event)

    assert drained(inbox) == [stalled, connected, message(BLOCK, b"1")]


@pytest.mark.parametrize(("size", "fit"), [(1, MESSAGES_MAX), (1024 * 1024, BYTES_MAX // (1024 * 1024) - 1)])
def test_a_flood_is_bounded_in_number_and_bytes_and_leaves_room_for_events(size: int, fit: int) -> None:
    inbox, payload = Inbox(), bytes(size)
    for number in range(1, fit + 1001):
        inbox.put(message(BLOCK, payload, mid=number))
    connected = Connected(False, 1000, True)
    inbox.put(connected)

    assert inbox.dropped() == 1000
    assert len(inbox.let_go()) == 1000
    assert drained(inbox)[-1] == connected
    inbox.put(message(BLOCK, payload))
    assert inbox.dropped() == 0
