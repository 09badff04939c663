"""Every field that leaves a node has its class, and exact counts of what was asked there are in none of them."""

import queue
from pathlib import Path
from typing import Annotated, NamedTuple

import pytest
from pydantic import Field

from fleetcast.mqtt_connection import Message
from node.broker.mqtt import NodeLink
from schemas import codec, disclosure
from schemas.disclosure import CLASSES, DOCUMENTS, REQUESTS, leaving
from schemas.document import Fact
from schemas.enrolment import ENDPOINTS
from schemas.state import State, TelemetryBudget
from schemas.topics import TABLE
from tests import brokers
from tests.broker.client import Client
from tools.generate_schemas import CARRIES

COUNTED = {
    "rho_spent": 0.41,
    "windows_waiting": 3,
    "windows_withheld": 7,
    "windows_merged": 5,
    "windows_dropped": 2,
    "intervals_late": 4,
}
BUDGET = TelemetryBudget(rho_day_max=0.7, ledger_entries=41, code="ledger.spent", calibrating=("delay",), **COUNTED)  # type: ignore[arg-type]
STATE = State(node="n1", session=1, status="online", at=1, telemetry=BUDGET)


def test_every_field_of_every_document_that_leaves_has_a_class() -> None:
    walked = set(disclosure.fields())

    assert disclosure.unclassified() == ()
    assert walked == set(CLASSES), "a row of the table is about no field"
    assert all(found.why for found in CLASSES.values() if found.kind != "public")


def test_the_walk_covers_all_that_nodes_write_to_topics_and_over_https() -> None:
    written = {kind.name: CARRIES[kind.name][0] for kind in TABLE if kind.writer == "node"}

    assert dict(DOCUMENTS) == written
    assert {one.schema_name for one in REQUESTS} == {one.asks for one in ENDPOINTS if one.asks}


def test_a_new_field_at_any_depth_is_found_to_have_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Row(NamedTuple):
        errors: int

    class Inner(Fact):
        rows: dict[str, tuple[Row, ...]]

    class Wider(State):
        news: Annotated[tuple[Inner, ...] | None, Field(max_length=4)] = None

    monkeypatch.setattr(disclosure, "DOCUMENTS", {**DOCUMENTS, "state": Wider})

    names = {one.name for one in disclosure.unclassified() if one.owner != "Wider"}

    assert names == {"rows", "errors"}
    assert disclosure.Field("Wider", "news") in disclosure.unclassified()


def test_a_state_on_the_wire_has_no_exact_count_of_windows(tmp_path: Path) -> None:
    with brokers.running("embedded", tmp_path) as broker:
        reader = Client.of(broker, "hub")
        reader.open()
        link = NodeLink(broker.url("n1"), fleet=brokers.FLEET, node="n1", inbox=queue.Queue(), tls=None)
        reader.subscribe(link.topics.state("n1"))
        link.open(session=1, at=1)

        link.publish_state(STATE)

        said = codec.decode(State, reader.next(Message).payload).telemetry
        link.close()
    assert said == TelemetryBudget(rho_spent=0.0, rho_day_max=0.7, ledger_entries=64, code="ledger.spent", calibrating=("delay",))


@pytest.mark.parametrize(("entries", "said"), [(None, None), (1, 32), (32, 32), (33, 64), (64, 64)])
def test_the_ledgers_entries_leave_in_steps_and_never_shrink(entries: int | None, said: int | None) -> None:
    state = STATE.model_copy(update={"telemetry": BUDGET.model_copy(update={"ledger_entries": entries})})

    found = leaving(state).telemetry

    assert found is not None
    assert found.ledger_entries == said
