"""The terms of a rollout in the running controller: what is signed, what is kept, and what commands read back."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hub.core.rollouts import gates
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.fleet import Failure
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.node_class import totals
from hub.core.rollouts.rollout import Progress
from hub.database.rows import NodeRow
from hub.operations.node_classes import Fleet
from schemas import codec
from schemas.windows import parse_windows
from tests.hub.service.rollouts.test_deployments import Hub

CANARY = [{"name": "canary", "where": "site=jfk"}, 50, 100]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    made = Hub(tmp_path / "fleet")
    made.begin()
    made.ask("start", version="1.0.0")
    made.serve(0)
    return made


def reason(hub: Hub) -> str:
    (row,) = hub.store.rollout_rows()
    return row.reason


def outcomes(hub: Hub) -> dict[str, str]:
    (row,) = hub.store.rollout_rows()
    return {one.name: one.outcome for one in gates.from_json(row.gates)}


def test_a_named_stage_and_an_approval_are_signed_waited_for_and_said(hub: Hub) -> None:
    answer = hub.ask("start", version="1.1.0", stages=CANARY, approve=[50])
    assert answer.endswith("stages canary, 50 %, 100 %")
    assert hub.by_name["default"].threshold == 0
    hub.serve(1, "n0", "n1")
    assert (
        reason(hub)
        == "waits: stage 2 (50 %) needs approval; 2 of 2 nodes heard from serve it; drift cannot be judged: 2 nodes in cohort nyc, 3 needed"
    )
    assert outcomes(hub) == {"drift": "cannot be judged", "failures": "holds", "receipts": "holds", "soak": "holds", "approval": "waits"}

    assert "has stage 2 approved" in hub.ask("approve")
    hub.passes()
    assert hub.by_name["default"].stage == 1
    assert hub.ask("approve").startswith("rollout.invalid: stage 3 of the rollout")


def test_times_are_signed_and_a_deadline_ends_the_rollout_for_those_that_serve(hub: Hub) -> None:
    windows = parse_windows("Mon-Fri 22:00-05:00")
    until = int(hub.now) + 7 * 24 * 3600
    answer = hub.ask("start", version="1.1.0", stages=CANARY, activate=windows, deadline=until, carriage={"fetch": windows})
    assert ", until 20" in answer
    signed = hub.by_name["default"]
    assert (signed.activate, signed.deadline, signed.carriage and signed.carriage.fetch) == (windows, until, windows)
    hub.serve(1, "n0")
    hub.now = until
    hub.passes()
    assert hub.by_name["default"].state == "done"
    assert reason(hub) == "the deadline has passed: 1 of 8 nodes serves it, 7 expired and stay on what they serve"
    assert "has passed" in hub.ask("start", version="1.2.0", deadline=int(hub.now) - 1)


def test_failed_nodes_try_again_by_themselves_and_each_attempt_is_signed(hub: Hub) -> None:
    hub.ask("start", version="1.1.0", gate={"retries": 1, "retry_seconds": 60})
    digest = hub.refs[1].digest

    def fails() -> None:
        for name, node in hub.nodes.items():
            times = (*node.failed_at.get(("delay", digest), ()), int(hub.now))
            failure = Failure("refused", "model.golden", int(hub.now))
            hub.nodes[name] = replace(node, failures={("delay", digest): failure}, failed_at={("delay", digest): times})
        hub.passes()

    fails()
    assert "they try again in 60 s" in reason(hub)
    for _ in range(20):  # 60 s in which the hub listens
        hub.passes(3)
        hub.listening.tick()
    hub.passes()
    assert (hub.by_name["default"].attempt, hub.by_name["default"].state) == (1, "running")
    fails()
    assert hub.by_name["default"].state == "halted"


def test_a_gate_on_shadow_is_refused_for_a_release_without_one(hub: Hub) -> None:
    assert "delay@1.1.0 is not compared in shadow" in hub.ask("start", version="1.1.0", gate={"shadow_ratio_min": 0.5})


def test_a_hub_that_starts_again_shows_what_the_gates_said(hub: Hub) -> None:
    hub.ask("start", version="1.1.0", stages=CANARY, approve=[50])
    hub.serve(1, "n0", "n1")
    before = outcomes(hub)
    hub.begin().tick()
    assert outcomes(hub) == before


def test_the_classes_that_commands_read_add_up_to_the_nodes_of_each_deployment(hub: Hub) -> None:
    hub.ask("start", version="1.1.0", stages=CANARY)
    listened = Listened(100.0)
    hub.listening._hearing.keep_listened(listened)  # the clock that commands read
    for node in hub.nodes.values():
        hub.store.upsert_node(NodeRow(node.name, 1, "online", int(time.time()), codec.encode(node.state), b"k", "nyc"))
    found = Fleet(hub.store, required=False)
    signed = hub.signed
    model = Model("delay", rollouts=tuple(Progress("delay", one, stage_entered_at=0, judged_from=0) for one in signed.deployments))
    lines = found.lines(model, {})
    counts = totals(line.found for line in lines)

    assert sum(counts.values()) == len(hub.nodes)
    assert (counts["moving"], counts["waiting"]) == (2, 6)
    assert json.dumps([line.as_row() for line in lines])
