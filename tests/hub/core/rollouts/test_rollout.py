"""Stages and gates: when a rollout goes on, waits, halts, or is done."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.rollouts import commands
from hub.core.rollouts import rollout as core
from hub.core.rollouts.commands import SetParameters, Start
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.rollout import Announce, Facts, Halted, NodeFacts, Progress
from schemas.errors import Code, Refused
from schemas.limits import FALLBACKS_MAX
from schemas.names import sha256
from schemas.parameters import Parameter
from schemas.rollout import Gate, ReleaseRef, bucket, fallback_of, wanted

RELEASE, OLD = ReleaseRef("1.1.0", sha256(b"new")), ReleaseRef("1.0.0", sha256(b"old"))
SALTS = [bytes([number]) * 16 for number in range(64)]
NOW = 10_000


def wish(*stages: int, labels: dict[str, str] | None = None, force: bool = False, **gate: object) -> Start:
    return Start(version="1.1.0", stages=stages or (100,), labels=labels or {}, gate=Gate.model_validate(gate), force=force)


def node(name: str, *, heard: bool = True, serving: bool = False, failed_at: int | None = None, **labels: str) -> NodeFacts:
    return NodeFacts(name, labels, heard, serving, failed_at)


def fleet(count: int, *, serving: int = 0, **changes: bool) -> list[NodeFacts]:
    return [node(f"n{number}", serving=number < serving, **changes) for number in range(count)]


def begin(start: Start, nodes: Sequence[NodeFacts] = (), before: Progress | None = None) -> Progress:
    rollout = before.rollout if before else None
    return core.begin("delay", start, RELEASE, before=rollout, nodes=nodes, salts=SALTS, now=NOW)


def step(progress: Progress, facts: Facts, *, now: int) -> tuple[Progress, tuple[core.Action, ...]]:
    """A look at the gate by a hub that has listened all the time."""
    return core.step(progress, facts, now=now, listened=Listened(float(now)))


def done(release: ReleaseRef = OLD, labels: dict[str, str] | None = None, before: Progress | None = None) -> Progress:
    """A rollout of this release, to the nodes with these labels, that has come to its end."""
    progress = begin(wish(labels=labels, force=True), before=before)
    return replace(progress, rollout=progress.rollout.model_copy(update={"release": release, "state": "done"}))


def served(progress: Progress, nodes: Sequence[NodeFacts]) -> list[NodeFacts]:
    """The nodes of the present stage have taken it."""
    rollout = progress.rollout
    return [replace(one, serving=bucket(rollout.salt, one.node) < rollout.percent) for one in nodes]


def test_a_stage_whose_gate_holds_leads_to_the_next_and_the_last_one_to_done() -> None:
    nodes = fleet(20)
    progress = begin(wish(10, 50, 100), nodes)
    seen = []

    for turn in range(3):
        progress, actions = step(progress, Facts(served(progress, nodes)), now=NOW + turn)
        seen.append((progress.rollout.serial, progress.rollout.percent, progress.rollout.state, len(actions)))

    assert seen == [(2, 50, "running", 1), (3, 100, "running", 1), (4, 100, "done", 1)]


def test_too_few_receipts_wait_and_say_how_many() -> None:
    progress = begin(wish(receipts_ratio_min=0.95), fleet(20))

    waiting, actions = step(progress, Facts(fleet(20, serving=18)), now=NOW + 9999)

    assert (waiting.rollout, actions) == (progress.rollout, ())
    assert "18 of 20" in waiting.reason


def test_silent_nodes_neither_hold_up_a_stage_nor_carry_it() -> None:
    nodes = fleet(10, serving=10) + [node(f"s{number}", heard=False) for number in range(30)]
    progress, _ = step(begin(wish(), nodes), Facts(nodes), now=NOW)

    assert progress.rollout.state == "done"
    assert (progress.tally.heard, progress.tally.silent) == (10, 30)


def test_a_stage_of_silent_nodes_only_waits() -> None:
    nodes = fleet(5, serving=5, heard=False)

    progress, actions = step(begin(wish(), nodes), Facts(nodes), now=NOW + 10**6)

    assert (progress.rollout.state, actions) == ("running", ())
    assert "silent" in progress.reason


def test_a_fleet_without_nodes_waits_for_one() -> None:
    progress, actions = step(begin(wish(labels={"site": "a"}, force=True)), Facts([node("n1", site="b")]), now=NOW + 10**6)

    assert (progress.rollout.state, actions) == ("running", ())
    assert "no node" in progress.reason


def test_more_failures_than_allowed_halt() -> None:
    nodes = [*fleet(10, serving=8), node("x", failed_at=NOW), node("y", failed_at=NOW)]

    progress, actions = step(begin(wish(failures_ratio_max=0.1), nodes), Facts(nodes), now=NOW)

    assert progress.rollout.state == "halted"
    assert [type(action) for action in actions] == [Announce, Halted]
    assert "2 of 12" in progress.reason


def test_failures_of_before_the_rollout_do_not_count() -> None:
    nodes = [*fleet(10, serving=10), node("x", failed_at=NOW - 1)]

    progress, _ = step(begin(wish(receipts_ratio_min=0.9), nodes), Facts(nodes), now=NOW)

    assert progress.rollout.state == "done"


@pytest.mark.parametrize(("halt_on_drift", "state"), [(True, "halted"), (False, "done")])
def test_a_drift_alarm_of_the_new_release_halts_where_the_gate_says_so(halt_on_drift: bool, state: str) -> None:
    nodes = fleet(3, serving=3)

    progress, _ = step(
        begin(wish(halt_on_drift=halt_on_drift), nodes), Facts(nodes, drift_alarm="1.1.0 raised a drift alarm in cohort nyc: hour"), now=NOW
    )

    assert progress.rollout.state == state


def test_the_gate_must_hold_without_a_break_for_the_soak_time() -> None:
    good, bad = Facts(fleet(4, serving=4)), Facts(fleet(4, serving=1))
    progress = begin(wish(soak_seconds=60), fleet(4))

    states = []
    for at, facts in ((0, good), (59, good), (60, bad), (61, good), (120, good), (121, good)):
        progress, _ = step(progress, facts, now=NOW + at)
        states.append(progress.rollout.state)

    assert states == ["running"] * 5 + ["done"]


def test_a_small_fleet_gets_a_salt_that_leaves_no_stage_empty() -> None:
    nodes = fleet(3)

    rollout = begin(wish(34, 100), nodes).rollout

    assert 1 <= sum(bucket(rollout.salt, one.node) < 34 for one in nodes) <= 2


def test_a_stage_that_no_node_falls_into_is_passed_over() -> None:
    nodes = [node("n1")]
    progress = begin(wish(1, 100), nodes)
    assert bucket(progress.rollout.salt, "n1") >= 1

    progress, actions = step(progress, Facts(nodes), now=NOW)

    assert progress.rollout.percent == 100
    assert "no node falls into the stage" in actions[0].text


def test_a_halted_rollout_resumes_where_it_was_and_forgives_what_was_seen() -> None:
    nodes = [*fleet(9, serving=9), node("x", failed_at=NOW)]
    progress, _ = step(begin(wish(50, 100, receipts_ratio_min=0.5), nodes), Facts(nodes), now=NOW)
    progress = progress if progress.rollout.state == "halted" else core.halt(progress)

    resumed = core.resume(progress, now=NOW + 5)
    after, _ = step(resumed, Facts(nodes), now=NOW + 6)

    assert resumed.rollout.stage == progress.rollout.stage
    assert after.rollout.state != "halted"


def test_rolling_back_leads_to_the_last_release_that_was_done() -> None:
    progress = begin(wish(), fleet(2), before=done(OLD))

    back = core.roll_back(progress)

    assert (back.rollout.state, back.rollout.fallback) == ("rolled_back", OLD)


def test_a_rollout_that_supersedes_a_running_one_keeps_its_fallback() -> None:
    running = begin(wish(), fleet(2), before=done(OLD))

    newest = begin(wish(), fleet(2), before=running)

    assert (newest.rollout.serial, newest.rollout.fallback) == (running.rollout.serial + 1, OLD)


CANARY, MIDDLE = {"ring": "canary"}, ReleaseRef("1.0.5", sha256(b"middle"))


def canaried() -> Progress:
    """1.0.0 came to all, then 1.0.5 to the canaries."""
    return done(MIDDLE, CANARY, before=done(OLD))


def serves(progress: Progress, name: str, *, serving: ReleaseRef | None = None, **labels: str) -> ReleaseRef | None:
    return wanted(progress.rollout, node=name, labels=labels, serving=serving.digest if serving else None)


def test_a_canarys_release_moves_no_node_that_is_not_a_canary() -> None:
    names = [f"n{number}" for number in range(200)]
    progress = begin(wish(25, 100), fleet(200), before=canaried())
    outside = [name for name in names if bucket(progress.rollout.salt, name) >= 25]

    assert outside
    assert {serves(progress, name, serving=OLD) for name in outside} == {None}
    assert {serves(core.halt(progress), name, serving=OLD) for name in names} == {None}
    assert {serves(core.roll_back(progress), name, serving=OLD) for name in outside} == {None}


def test_going_back_leads_canaries_and_others_to_their_own_releases() -> None:
    progress, _ = step(begin(wish(), fleet(3), before=canaried()), Facts(fleet(3, serving=3)), now=NOW)

    back = core.roll_back(progress)

    assert serves(back, "n1", serving=RELEASE, ring="canary") == MIDDLE
    assert serves(back, "n2", serving=RELEASE) == OLD
    assert back.reason == "rolled back to 1.0.5 (label ring=canary), else to 1.0.0 by an operator"


def test_a_node_that_serves_nothing_gets_its_own_fallback_outside_the_stage() -> None:
    progress = begin(wish(25, 100), fleet(200), before=canaried())
    outside = next(f"n{number}" for number in range(200) if bucket(progress.rollout.salt, f"n{number}") >= 25)

    assert serves(progress, outside) == OLD
    assert serves(progress, outside, ring="canary") == MIDDLE


def test_a_first_release_for_some_is_no_fallback_for_others() -> None:
    progress = begin(wish(), fleet(3), before=done(OLD, CANARY))

    back = core.roll_back(progress)

    assert serves(back, "n1", serving=RELEASE) is None
    assert serves(back, "n1", serving=RELEASE, ring="canary") == OLD


def test_going_back_from_a_rollout_by_labels_touches_no_other_node() -> None:
    back = core.roll_back(canaried())

    assert serves(back, "n1", serving=MIDDLE, ring="canary") == OLD
    assert serves(back, "n2", serving=OLD) is None
    assert serves(back, "n2") is None


def test_a_canary_that_was_rolled_back_leaves_no_trace_in_the_next_fallback() -> None:
    progress = begin(wish(), fleet(3), before=core.roll_back(canaried()))

    assert (progress.rollout.fallback, progress.rollout.fallbacks) == (OLD, None)


def test_the_release_of_a_rollout_to_all_is_the_only_fallback() -> None:
    progress = begin(wish(), fleet(3), before=done(MIDDLE, before=canaried()))

    assert (progress.rollout.fallback, progress.rollout.fallbacks) == (MIDDLE, None)


def test_back_also_takes_the_release_from_nodes_that_an_earlier_attempt_reached() -> None:
    first = core.halt(begin(wish(25, 100), fleet(50), before=done(OLD)))
    again = core.roll_back(begin(wish(1, 100), fleet(50), before=first))
    outside = next(f"n{number}" for number in range(50) if bucket(again.rollout.salt, f"n{number}") >= 1)

    assert serves(again, outside, serving=RELEASE) == OLD
    assert serves(again, outside, serving=MIDDLE) is None


labels_of_rollouts = st.lists(st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2), min_size=1, max_size=6)


@given(labels_of_rollouts, st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2))
def test_a_nodes_fallback_is_the_newest_done_release_that_selected_it(history: list[dict[str, str]], mine: dict[str, str]) -> None:
    before: Progress | None = None
    own: ReleaseRef | None = None
    for number, labels in enumerate(history):
        release = ReleaseRef(f"1.{number}.0", sha256(bytes([number])))
        before = done(release, labels, before)
        own = release if labels.items() <= mine.items() else own
    progress = begin(wish(), before=before)

    assert wanted(core.halt(progress).rollout, node="n", labels=mine, serving=None) is None
    assert (found.release if (found := fallback_of(progress.rollout, mine)) else None) == own


def test_labels_that_no_known_node_has_are_refused_unless_forced() -> None:
    nodes = [node("n1", site="a"), node("n2", site="b")]

    with pytest.raises(Refused, match=r"label site=c is on none of the 2 known nodes.*--force"):
        begin(wish(labels={"site": "c"}), nodes)
    with pytest.raises(Refused, match="none is known yet"):
        begin(wish(labels={"site": "c"}))
    assert begin(wish(labels={"site": "c"}, force=True), nodes).rollout.labels == {"site": "c"}
    assert begin(wish(labels={"site": "b"}), nodes).rollout.labels == {"site": "b"}


@pytest.mark.parametrize(
    ("running", "newer", "words"),
    [
        (wish(25, 100), wish(), "at 25 % of its nodes"),
        (wish(), wish(25, 100), "only 25 % of its nodes at first"),
        (wish(), wish(labels={"site": "a"}), "also to nodes without label site=a"),
        (wish(labels={"site": "a"}), wish(labels={"site": "b"}), "also to nodes without label site=b"),
    ],
)
def test_a_rollout_that_would_leave_a_running_one_half_way_is_refused(running: Start, newer: Start, words: str) -> None:
    nodes = [node("n1", site="a"), node("n2", site="b")]
    before = begin(running, nodes)

    with pytest.raises(Refused, match=f"{words}.*rollout halt delay.*--force"):
        begin(newer, nodes, before=before)
    assert begin(newer.model_copy(update={"force": True}), nodes, before=before).rollout.serial == 2
    assert begin(newer, nodes, before=core.halt(before)).rollout.serial == 3


@pytest.mark.parametrize("running", [wish(), wish(labels={"site": "a"})])
def test_a_rollout_that_addresses_all_nodes_of_a_running_one_needs_no_force(running: Start) -> None:
    nodes = [node("n1", site="a"), node("n2", site="b")]

    assert begin(wish(), nodes, before=begin(running, nodes)).rollout.serial == 2


def test_more_pasts_than_a_rollout_can_carry_are_refused_unless_forced() -> None:
    before = done(OLD)
    nodes = [node(f"n{number}", site=f"s{number}") for number in range(FALLBACKS_MAX)]
    for one in nodes:
        before = done(MIDDLE, dict(one.labels), before)

    with pytest.raises(Refused, match=r"13 different releases.*back to 1\.0\.0"):
        begin(wish(), nodes, before=before)
    assert len(begin(wish(force=True), nodes, before=before).rollout.fallbacks or ()) == FALLBACKS_MAX


def test_soak_time_passes_only_while_the_hub_listens() -> None:
    good = Facts(fleet(4, serving=4))
    deaf = replace(good, listening=False)
    progress = begin(wish(soak_seconds=60), fleet(4))

    states = []
    for at, listened, facts in ((0, 0, good), (30, 30, good), (9_000, 30, deaf), (9_001, 30, good), (9_030, 59, good), (9_031, 60, good)):
        progress, _ = core.step(progress, facts, now=NOW + at, listened=Listened(float(listened)))
        states.append((progress.rollout.state, progress.reason))

    assert [state for state, _ in states] == ["running"] * 5 + ["done"]
    assert states[2][1] == core.DEAF
    assert states[3][1] == "the gate holds; it must for 30 s more"


def test_no_stage_passes_while_the_hub_does_not_listen_not_even_without_soak() -> None:
    nodes = fleet(4, serving=4)

    progress, actions = step(begin(wish(), nodes), Facts(nodes, listening=False), now=NOW)

    assert (progress.rollout.state, progress.reason, actions) == ("running", core.DEAF, ())


def test_failures_halt_a_rollout_also_while_the_hub_does_not_listen() -> None:
    nodes = [node("n1", failed_at=NOW)]

    progress, _ = step(begin(wish(), nodes), Facts(nodes, listening=False), now=NOW)

    assert progress.rollout.state == "halted"


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_jump_of_the_walls_clock_does_not_change_the_soak_time(jump: int) -> None:
    nodes = fleet(4, serving=4)
    progress = begin(wish(soak_seconds=60), nodes)
    progress, _ = core.step(progress, Facts(nodes), now=NOW, listened=Listened(7.0))

    waits, _ = core.step(progress, Facts(nodes), now=NOW + jump, listened=Listened(66.5))
    over, _ = core.step(progress, Facts(nodes), now=NOW + jump, listened=Listened(67.0))

    assert (waits.rollout.state, waits.reason, over.rollout.state) == ("running", "the gate holds; it must for 1 s more", "done")


def test_the_first_rollout_has_nothing_to_go_back_to() -> None:
    with pytest.raises(Refused, match="no release to go back to") as refusal:
        core.roll_back(begin(wish(), fleet(1)))

    assert refusal.value.code == Code.ROLLOUT_INVALID


@pytest.mark.parametrize("change", [core.halt, lambda progress: core.resume(progress, now=NOW)])
def test_what_is_done_can_neither_be_halted_nor_resumed(change: object) -> None:
    with pytest.raises(Refused, match="is done"):
        change(done())  # type: ignore[operator]


@pytest.mark.parametrize("stages", [(50,), (50, 50, 100), (100, 50)])
def test_stages_must_rise_to_a_hundred(stages: tuple[int, ...]) -> None:
    with pytest.raises(Refused, match="must rise and end at 100"):
        begin(wish(*stages))


events = st.lists(
    st.tuples(
        st.integers(0, 12), st.integers(0, 12), st.booleans(), st.sampled_from(["step", "step", "step", "halt", "resume", "roll_back"])
    ),
    max_size=25,
)


@settings(max_examples=200)
@given(events)
def test_serials_rise_by_one_with_each_new_document_and_never_without(history: list[tuple[int, int, bool, str]]) -> None:
    progress, now = begin(wish(20, 60, 100, soak_seconds=3), fleet(12), before=done()), NOW
    for serving, failing, alarm, kind in history:
        before, now = progress, now + 1
        nodes = [replace(one, failed_at=now if number >= 12 - failing else None) for number, one in enumerate(fleet(12, serving=serving))]
        try:
            if kind == "step":
                progress, actions = step(progress, Facts(nodes, drift_alarm="it drifts" if alarm else ""), now=now)
                assert any(isinstance(action, Announce) for action in actions) == (progress.rollout != before.rollout)
            else:
                progress = {"halt": core.halt, "resume": partial(core.resume, now=now), "roll_back": core.roll_back}[kind](progress)
        except Refused:
            assert progress == before
        changed = progress.rollout.model_copy(update={"serial": 0}) != before.rollout.model_copy(update={"serial": 0})
        assert progress.rollout.serial == before.rollout.serial + changed
        assert progress.rollout.stage in {before.rollout.stage, before.rollout.stage + 1}


THRESHOLD = Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0)


def with_parameters(progress: Progress, version: str = "1.1.0", **values: float) -> Progress:
    return core.set_parameters(progress, SetParameters(version=version, parameters=dict(values)), allowed=(THRESHOLD,))


def test_setting_a_parameter_changes_that_and_the_serial_and_nothing_else() -> None:
    before = done(RELEASE)

    after = with_parameters(before, threshold=0.7)

    changed = {"serial": before.rollout.serial + 1, "parameters": {"threshold": 0.7}}
    assert after == replace(before, rollout=before.rollout.model_copy(update=changed))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_no_node_moves_however_often_parameters_are_set(values: list[float]) -> None:
    before = begin(wish(10, 50, 100), fleet(20))
    after = before
    for value in values:
        after = with_parameters(after, threshold=value)

    wants = [[wanted(one.rollout, node=f"n{number}", labels={}, serving=None) for number in range(20)] for one in (before, after)]
    assert wants[0] == wants[1]
    assert after.rollout.parameters == {"threshold": values[-1]}


def test_the_same_value_again_is_nothing() -> None:
    once = with_parameters(begin(wish(), fleet(1)), threshold=0.7)

    assert with_parameters(once, threshold=0.7) is once


def test_parameters_of_another_release_than_is_rolled_out_are_refused() -> None:
    with pytest.raises(Refused, match=r"expected 1\.0\.0, found 1\.1\.0"):
        with_parameters(begin(wish(), fleet(1)), version="1.0.0", threshold=0.7)


def test_what_was_set_of_a_release_stays_in_force_where_that_is_still_served() -> None:
    before = core.set_parameters(done(), SetParameters(version="1.0.0", parameters={"threshold": 0.7}), allowed=(THRESHOLD,))

    running = begin(wish(10, 100), fleet(20), before=before)
    again = begin(wish(10, 100, force=True), fleet(20), before=running)  # of the next release, before the last one was done

    assert (running.rollout.fallback, running.rollout.fallback_parameters, running.rollout.parameters) == (OLD, {"threshold": 0.7}, None)
    assert (again.rollout.fallback, again.rollout.fallback_parameters) == (OLD, {"threshold": 0.7})


def test_after_going_back_parameters_are_those_of_the_release_that_is_served_again() -> None:
    back = core.roll_back(begin(wish(), fleet(1), before=done()))

    after = core.set_parameters(back, SetParameters(version="1.0.0", parameters={"threshold": 0.7}), allowed=(THRESHOLD,))

    changed = {"serial": back.rollout.serial + 1, "fallback_parameters": {"threshold": 0.7}}
    assert after.rollout == back.rollout.model_copy(update=changed)
    with pytest.raises(Refused, match=r"expected 1\.1\.0, found 1\.0\.0"):
        with_parameters(back, threshold=0.7)


def test_a_stage_that_goes_on_keeps_what_is_set() -> None:
    nodes = fleet(20)
    progress = with_parameters(begin(wish(10, 100), nodes), threshold=0.7)

    progress, _ = step(progress, Facts(served(progress, nodes)), now=NOW)

    assert (progress.rollout.percent, progress.rollout.parameters) == (100, {"threshold": 0.7})


def test_a_rollout_that_begins_has_what_is_set_with_it_within_bounds() -> None:
    start = wish().model_copy(update={"parameters": {"threshold": 0.7}})
    begun = core.begin("delay", start, RELEASE, before=None, nodes=[], salts=SALTS, now=NOW, allowed=(THRESHOLD,))

    assert begun.rollout.parameters == {"threshold": 0.7}
    with pytest.raises(Refused, match="expected none, found threshold"):
        core.begin("delay", start, RELEASE, before=None, nodes=[], salts=SALTS, now=NOW)


def test_a_body_that_makes_no_sense_is_refused_by_its_field() -> None:
    with pytest.raises(Refused, match="parameters"):
        commands.read("set", '{"version": "1.0.0", "parameters": 3}')
