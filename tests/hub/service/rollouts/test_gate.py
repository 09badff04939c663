"""A rollout's gate with the detectors' own findings: new drift of the release halts it, the world's older drift does not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hub.core.rollouts import commands, fleet
from hub.core.rollouts.listening import Listened
from hub.database.hearing import Hearing
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.controller import Controller
from hub.service.rollouts.listening import ListeningClock
from schemas.manifest import Manifest
from schemas.state import Profile, State
from tests.hub.drifted import Days
from tests.hub.hubs import deployment_of
from tests.hub.service.telemetry.test_accuracy_counts import accuracy


class Gate:
    """Days that pass, two releases, ten nodes of two cohorts, and the controller."""

    def __init__(self, directory: Path) -> None:
        self.days = Days(directory)
        self.old, self.new = self.days.publish("1.0.0"), self.days.publish("1.1.0")
        self.nodes = {f"n{number}": self.node(f"n{number}", "nyc" if number < 5 else "bos") for number in range(10)}
        self.listening = ListeningClock(Hearing(self.days.store.database), monotonic=lambda: self.days.now)
        self.connect()
        self.begin()

    def begin(self) -> None:
        """A process of the hub begins."""
        self.controller = Controller(
            repository=self.days.fleet.repository,
            store=self.days.store,
            notes=Notes(self.days.store, publish=lambda alert: None, clock=lambda: self.days.now),
            nodes=self.nodes,
            signer=self.days.fleet.online[2],
            random_bytes=bytes,
            wall=lambda: self.days.now,
            monotonic=lambda: self.days.now,
            listening=self.listening,
            cohort_nodes_min=3,
        )

    def node(self, name: str, cohort: str) -> fleet.Node:
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels={"city": cohort})
        state = State(node=name, session=1, status="online", at=1, public_key=b"k", cohort=cohort, profile=profile)
        return fleet.Node(state, "online", 1, 0, b"k", heard_at=Listened(2.0**39))

    def connect(self) -> None:
        """The broker answers, and keeps nothing back for the hub."""
        self.listening.connected(1)
        self.listening.subscribed(denied=False)
        self.listening.took(0, waited=1.0, full=False)

    def passes(self, seconds: int) -> None:
        """Time, in the loop's steps."""
        for _ in range(seconds):
            self.days.now += 1
            self.listening.tick()
            self.controller.tick()

    def day(self, number: int, manifest: Manifest, *, shift: float, cohort: str = "nyc") -> None:
        self.days.hear(manifest, number, shift=shift, cohort=cohort)
        self.days.settle()
        self.controller.tick()

    def ask(self, kind: str, **body: object) -> None:
        self.days.store.add_command("delay", commands.read(kind, json.dumps(body)))
        self.controller.tick()

    @property
    def state(self) -> str:
        (row,) = self.days.store.rollout_rows()
        return deployment_of(row).state

    @property
    def reason(self) -> str:
        return self.days.store.rollout_rows()[0].reason


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "fleet")


def test_drift_that_the_new_release_is_the_first_to_show_halts_its_rollout(gate: Gate) -> None:
    gate.day(0, gate.old, shift=0.0)
    gate.ask("start", version="1.1.0", stages=[50, 100])
    before = gate.state
    gate.day(1, gate.new, shift=1.0)

    assert (before, gate.state) == ("running", "halted")
    assert gate.reason == "1.1.0 raised a drift alarm in cohort nyc: delay"
    assert [one.alert.kind for one in gate.days.store.alerts()] == ["drift", "rollout_halted"]


def test_labels_by_which_the_new_release_errs_more_halt_its_rollout(gate: Gate) -> None:
    judged = gate.days.publish("1.2.0", accuracy=accuracy())
    gate.ask("start", version="1.2.0", stages=[50, 100])
    gate.day(0, judged, shift=0.0)
    gate.days.label(judged, 0, right=180, wrong=20)
    gate.day(1, judged, shift=0.0)
    before = gate.state
    gate.days.label(judged, 1, right=140, wrong=60)
    gate.day(2, judged, shift=0.0)

    assert (before, gate.state) == ("running", "halted")
    assert gate.reason == "1.2.0 raised a drift alarm in cohort nyc: accuracy"


def test_drift_that_lasted_before_it_began_does_not_halt_it(gate: Gate) -> None:
    for day in range(3):
        gate.day(day, gate.old, shift=1.0)
    gate.ask("start", version="1.1.0", stages=[50, 100])
    for day in range(3, 6):
        gate.day(day, gate.new, shift=1.0)

    assert gate.state == "running"
    assert [(one.alert.kind, one.alert.version) for one in gate.days.store.alerts()] == [("drift", "1.0.0"), ("drift", "1.1.0")]


def test_the_same_drift_in_a_cohort_that_had_none_does(gate: Gate) -> None:
    gate.day(0, gate.old, shift=1.0, cohort="nyc")
    gate.ask("start", version="1.1.0", stages=[50, 100])
    gate.day(1, gate.new, shift=1.0, cohort="bos")

    assert gate.state == "halted"


def test_a_cohort_that_the_rollout_does_not_address_is_not_its_fault(gate: Gate) -> None:
    gate.ask("start", version="1.1.0", stages=[50, 100], labels={"city": "bos"})
    gate.day(1, gate.new, shift=1.0, cohort="nyc")
    before = gate.state
    gate.day(2, gate.new, shift=1.0, cohort="bos")

    assert (before, gate.state) == ("running", "halted")


def test_who_resumes_has_seen_the_drift_and_it_does_not_halt_again_while_it_lasts(gate: Gate) -> None:
    gate.ask("start", version="1.1.0", stages=[50, 100])
    gate.day(1, gate.new, shift=1.0)
    halted = gate.state
    gate.days.now += 1
    gate.ask("resume")
    for day in range(2, 5):
        gate.day(day, gate.new, shift=1.0)

    assert (halted, gate.state) == ("halted", "running")


def test_a_gate_that_does_not_look_at_drift_does_not(gate: Gate) -> None:
    gate.ask("start", version="1.1.0", stages=[50, 100], gate={"halt_on_drift": False})
    gate.day(1, gate.new, shift=1.0)

    assert gate.state == "running"


def test_a_stage_of_too_few_nodes_for_a_test_says_so_and_passes_by_receipts_alone(gate: Gate) -> None:
    gate.nodes.clear()
    gate.nodes["n1"] = gate.node("n1", "nyc")
    gate.ask("start", version="1.1.0", stages=[100], gate={"receipts_ratio_min": 0.0, "soak_seconds": 60})
    held = gate.reason
    gate.passes(61)

    needed = "drift cannot be judged: 1 node in cohort nyc, 3 needed"
    assert held == f"the gate holds; it must for 60 s more; {needed}"
    assert (gate.state, gate.reason) == ("done", f"0 of 1 node heard from serve it; {needed}")


def test_a_gate_that_asks_for_tests_waits_for_them_and_says_what_it_lacks(gate: Gate) -> None:
    gate.ask("start", version="1.1.0", stages=[100], gate={"receipts_ratio_min": 0.0, "drift_tests_min": 2})
    gate.days.now += 1
    gate.controller.tick()
    first = gate.reason
    gate.day(1, gate.new, shift=0.0)
    second, state = gate.reason, gate.state
    gate.day(2, gate.new, shift=0.0)

    assert first.startswith("waits: 0 of 2 intervals that the gate asks for were tested; drift is not judged yet")
    assert second == "waits: 1 of 2 intervals that the gate asks for was tested; no drift in 1 tested interval"
    assert (state, gate.state) == ("running", "done")
    assert gate.reason.endswith("no drift in 2 tested intervals")


def test_a_gate_that_waits_for_a_cohort_of_too_few_of_a_kind_says_that(gate: Gate) -> None:
    new = gate.days.publish("1.2.0", calibration_rows=1024)
    gate.ask("start", version="1.2.0", stages=[100], gate={"receipts_ratio_min": 0.0, "drift_tests_min": 2})
    gate.days.hear(new, 1, nodes=2, calibrated=True)
    gate.days.hear(new, 1, nodes=2)
    gate.days.settle()
    gate.controller.tick()

    assert gate.reason.endswith(
        "drift cannot be judged: the newest interval of cohort nyc has 2 with baselines, 2 without, 3 of a kind needed"
    )


def test_a_soak_that_an_earlier_hub_timed_by_the_wall_begins_anew_and_is_not_over(gate: Gate) -> None:
    gate.ask("start", version="1.1.0", stages=[100], gate={"receipts_ratio_min": 0.0, "soak_seconds": 60, "halt_on_drift": False})
    (row,) = gate.days.store.rollout_rows()
    gate.days.store.put_rollout_row(replace(row, held_since=int(gate.days.now) - 59))
    gate.begin()
    gate.passes(2)

    assert (gate.state, gate.reason) == ("running", "the gate holds; it must for 58 s more")


def test_a_new_process_of_the_hub_goes_on_with_the_soak_where_the_last_one_was(gate: Gate) -> None:
    gate.ask("start", version="1.1.0", stages=[100], gate={"receipts_ratio_min": 0.0, "soak_seconds": 60, "halt_on_drift": False})
    gate.passes(20)
    gate.begin()
    gate.passes(1)

    assert gate.reason == "the gate holds; it must for 39 s more"
