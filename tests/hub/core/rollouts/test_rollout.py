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
from hub.core.rollouts.deployments import Model, begun
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.rollout import Announce, Facts, Halted, Progress
from hub.core.rollouts.tally import NodeReport
from schemas.deployments import Moved, ReleaseParameters, Run, Stage, Stop, deciding, is_reached, position
from schemas.deployments import wish as wish_of
from schemas.errors import Refused
from schemas.names import sha256
from schemas.parameters import Parameter
from schemas.rollout import Gate, ReleaseRef
from schemas.selectors import NodeFacts, parse

RELEASE, OLD = ReleaseRef("1.1.0", sha256(b"new")), ReleaseRef("1.0.0", sha256(b"old"))
SALT = bytes(16)
NOW = 10_000


def wish(*stages: int, labels: dict[str, str] | None = None, force: bool = False, **gate: object) -> Start:
    return Start(version="1.1.0", stages=stages or (100,), labels=labels or {}, gate=Gate.model_validate(gate), force=force)


def node(name: str, *, heard: bool = True, serving: bool = False, failed_at: int | None = None, **labels: str) -> NodeReport:
    return NodeReport(name, labels, heard=heard, serving=serving, failed_at=failed_at)


def fleet(count: int, *, serving: int = 0, **changes: bool) -> list[NodeReport]:
    return [replace(node(f"n{number}", serving=number < serving), **changes) for number in range(count)]


def model(*rollouts: Progress) -> Model:
    found = Model("delay")
    for one in rollouts:
        found = found.with_rollout(one)
    return found


def begin(start: Start, nodes: Sequence[NodeReport] = (), before: Progress | Model | None = None, *, salt: bytes = SALT) -> Progress:
    known = before if isinstance(before, Model) else model(*([before] if before else []))
    return begun(known, start, RELEASE, nodes=nodes, rollout=salt, now=NOW)


def step(progress: Progress, facts: Facts, *, now: int) -> tuple[Progress, tuple[core.Action, ...]]:
    """A look at the gate by a hub that has listened all the time."""
    return core.step(progress, facts, now=now, listened=Listened(float(now)))


def done(release: ReleaseRef = OLD, labels: dict[str, str] | None = None, before: Progress | Model | None = None) -> Progress:
    """A rollout of this release, to the nodes with these labels, that has come to its end."""
    progress = begin(wish(labels=labels, force=True), before=before)
    return replace(progress, deployment=progress.deployment.model_copy(update={"release": release, "state": "done"}))


def served(progress: Progress, nodes: Sequence[NodeReport]) -> list[NodeReport]:
    """The nodes that it has reached have taken it."""
    return [replace(one, serving=is_reached(progress.deployment, one)) for one in nodes]


def test_a_stage_whose_gate_holds_leads_to_the_next_and_the_last_one_to_done() -> None:
    nodes = fleet(20)
    progress = begin(wish(10, 50, 100), nodes)
    seen = []

    for turn in range(3):
        progress, actions = step(progress, Facts(served(progress, nodes)), now=NOW + turn)
        seen.append((progress.deployment.threshold > 0, progress.deployment.percent, progress.deployment.state, len(actions)))

    assert seen == [(True, 50, "running", 1), (True, 100, "running", 1), (True, 100, "done", 1)]


def test_too_few_receipts_wait_and_say_how_many() -> None:
    progress = begin(wish(receipts_ratio_min=0.95), fleet(20))

    waiting, actions = step(progress, Facts(fleet(20, serving=18)), now=NOW + 9999)

    assert (waiting.deployment, actions) == (progress.deployment, ())
    assert "18 of 20" in waiting.reason


def test_silent_nodes_neither_hold_up_a_stage_nor_carry_it() -> None:
    nodes = fleet(10, serving=10) + [node(f"s{number}", heard=False) for number in range(30)]
    progress, _ = step(begin(wish(), nodes), Facts(nodes), now=NOW)

    assert progress.deployment.state == "done"
    assert (progress.tally.heard, progress.tally.silent) == (10, 30)


def test_a_stage_of_silent_nodes_only_waits() -> None:
    nodes = fleet(5, serving=5, heard=False)

    progress, actions = step(begin(wish(), nodes), Facts(nodes), now=NOW + 10**6)

    assert (progress.deployment.state, actions) == ("running", ())
    assert "silent" in progress.reason


def test_a_fleet_without_nodes_waits_for_one() -> None:
    progress, actions = step(begin(wish(labels={"site": "a"}, force=True)), Facts([]), now=NOW + 10**6)

    assert (progress.deployment.state, actions) == ("running", ())
    assert "no node" in progress.reason


def test_more_failures_than_allowed_halt() -> None:
    nodes = [*fleet(10, serving=8), node("x", failed_at=NOW), node("y", failed_at=NOW)]

    progress, actions = step(begin(wish(failures_ratio_max=0.1), nodes), Facts(nodes), now=NOW)

    assert progress.deployment.state == "halted"
    assert [type(action) for action in actions] == [Announce, Halted]
    assert "2 of 12" in progress.reason


def test_failures_of_before_the_rollout_do_not_count() -> None:
    nodes = [*fleet(10, serving=10), node("x", failed_at=NOW - 1)]

    progress, _ = step(begin(wish(receipts_ratio_min=0.9), nodes), Facts(nodes), now=NOW)

    assert progress.deployment.state == "done"


@pytest.mark.parametrize(("halt_on_drift", "state"), [(True, "halted"), (False, "done")])
def test_a_drift_alarm_of_the_new_release_halts_where_the_gate_says_so(halt_on_drift: bool, state: str) -> None:
    nodes = fleet(3, serving=3)

    progress, _ = step(
        begin(wish(halt_on_drift=halt_on_drift), nodes), Facts(nodes, drift_alarm="1.1.0 raised a drift alarm in cohort nyc: hour"), now=NOW
    )

    assert progress.deployment.state == state


def test_the_gate_must_hold_without_a_break_for_the_soak_time() -> None:
    good, bad = Facts(fleet(4, serving=4)), Facts(fleet(4, serving=1))
    progress = begin(wish(soak_seconds=60), fleet(4))

    states = []
    for at, facts in ((0, good), (59, good), (60, bad), (61, good), (120, good), (121, good)):
        progress, _ = step(progress, facts, now=NOW + at)
        states.append(progress.deployment.state)

    assert states == ["running"] * 5 + ["done"]


@pytest.mark.parametrize(("count", "percent", "reached"), [(1, 25, 1), (3, 34, 2), (4, 25, 1), (50, 10, 5), (50, 100, 50)])
def test_a_stage_reaches_its_share_as_a_count(count: int, percent: int, reached: int) -> None:
    nodes = fleet(count)

    progress = begin(wish(*sorted({percent, 100})), nodes)

    assert sum(is_reached(progress.deployment, one) for one in nodes) == reached


def test_the_threshold_never_falls_when_nodes_leave_between_stages() -> None:
    nodes = fleet(100)
    progress = begin(wish(50, 60, 100), nodes)
    first = [one for one in served(progress, nodes) if one.serving]

    after, _ = step(progress, Facts(sorted(first, key=lambda one: position(SALT, one.node))[:10]), now=NOW)

    assert after.deployment.stage == 1
    assert after.deployment.threshold >= progress.deployment.threshold


def test_a_stage_that_reaches_no_node_is_passed_over() -> None:
    nodes = [node("n1")]
    progress = begin(wish(), nodes)
    stages = (Stage(name="lab", selector=parse("site=lab")), Stage(100))
    progress = replace(progress, deployment=progress.deployment.model_copy(update={"stages": stages, "threshold": 0}))

    progress, actions = step(progress, Facts(nodes), now=NOW)

    assert progress.deployment.percent == 100
    assert "the stage reaches no node" in actions[0].text


def test_a_halted_rollout_resumes_where_it_was_and_forgives_what_was_seen() -> None:
    nodes = [*fleet(9, serving=9), node("x", failed_at=NOW)]
    progress, _ = step(begin(wish(50, 100, receipts_ratio_min=0.5), nodes), Facts(nodes), now=NOW)
    progress = progress if progress.deployment.state == "halted" else core.halt(progress)

    resumed = core.resume(progress, now=NOW + 5)
    after, _ = step(resumed, Facts(nodes), now=NOW + 6)

    assert resumed.deployment.stage == progress.deployment.stage
    assert after.deployment.state != "halted"


def test_rolling_back_leads_to_the_last_release_that_was_done() -> None:
    progress = begin(wish(), fleet(2), before=done(OLD))

    back = core.roll_back(progress)

    assert (back.deployment.state, back.deployment.fallback) == ("rolled_back", OLD)


def test_a_rollout_that_supersedes_a_running_one_keeps_its_fallback() -> None:
    running = begin(wish(), fleet(2), before=done(OLD))

    newest = begin(wish(), fleet(2), before=running)

    assert newest.deployment.fallback == OLD


CANARY, MIDDLE = {"ring": "canary"}, ReleaseRef("1.0.5", sha256(b"middle"))


def canaried() -> Model:
    """1.0.0 came to all, then 1.0.5 to the canaries."""
    everybody = done(OLD)
    return model(everybody, done(MIDDLE, CANARY, before=model(everybody)))


def gets(known: Model, name: str, *, serving: ReleaseRef | None = None, moved: Moved | None = None, **labels: str) -> ReleaseRef | None:
    """What a node is to run by the deployment that decides for it; None where it keeps what it has, or stops serving it."""
    facts = NodeFacts(name, labels)
    found = wish_of(deciding(known.deployments, facts), facts, serving=serving.digest if serving else None, moved=moved, now=NOW)
    return found.release if isinstance(found, Run) else None


def moved_from(progress: Progress, release: ReleaseRef | None) -> Moved:
    return Moved(rollout=progress.deployment.rollout, before=release)


def test_two_rollouts_in_two_deployments_leave_each_other_alone() -> None:
    nodes = [node(f"n{number}", ring="canary" if number < 50 else "main") for number in range(200)]
    known = canaried()
    progress = begin(wish(25, 100), nodes, before=known)
    running = known.with_rollout(progress)
    main = nodes[50:]

    reached = [one.node for one in main if gets(running, one.node, serving=OLD, ring="main") == RELEASE]
    assert len(reached) == 38
    assert {gets(running, one.node, serving=MIDDLE, ring="canary") for one in nodes[:50]} == {MIDDLE}
    for name in {one.node for one in main} - set(reached):
        for state in (running, running.with_rollout(core.halt(progress)), running.with_rollout(core.roll_back(progress))):
            assert gets(state, name, serving=OLD, ring="main") is None


def test_going_back_leads_each_node_to_its_own_release() -> None:
    progress = begin(wish(), fleet(3), before=done(OLD))

    back = core.roll_back(progress)

    assert gets(model(back), "n1", serving=RELEASE, moved=moved_from(progress, MIDDLE)) == MIDDLE
    assert gets(model(back), "n2", serving=RELEASE) == OLD
    assert back.reason == "rolled back to 1.0.0 by an operator"


def test_a_new_deployment_falls_back_to_what_its_nodes_had() -> None:
    nodes = [node("n1", ring="canary", area="a"), node("n2", site="b")]

    by_ring = begin(wish(labels={"area": "a"}), nodes, before=canaried())
    by_site = begin(wish(labels={"site": "b"}), nodes, before=canaried())
    unknown = begin(wish(labels={"site": "c"}, force=True), nodes, before=model(done(OLD)))

    assert [one.deployment.fallback for one in (by_ring, by_site, unknown)] == [MIDDLE, OLD, OLD]


def test_a_first_release_that_is_taken_back_is_served_no_more() -> None:
    back = core.roll_back(begin(wish(), fleet(1)))

    facts = NodeFacts("n1", {})
    moved = moved_from(back, None)
    assert wish_of(back.deployment, facts, serving=RELEASE.digest, moved=moved, now=NOW) == Stop()
    assert "no release" in back.reason


def test_a_deployment_that_was_rolled_back_leaves_no_trace_in_the_next_fallback() -> None:
    progress = begin(wish(), fleet(3), before=core.roll_back(begin(wish(), fleet(3), before=done(OLD))))

    assert progress.deployment.fallback == OLD


def test_back_also_takes_the_release_from_nodes_that_an_earlier_attempt_reached() -> None:
    nodes = fleet(50)
    first = core.halt(begin(wish(25, 100), nodes, before=done(OLD)))
    again = core.roll_back(begin(wish(1, 100), nodes, before=first, salt=b"again" + bytes(11)))
    outside = next(one.node for one in nodes if not is_reached(again.deployment, one))

    assert gets(model(again), outside, serving=RELEASE) == OLD
    assert gets(model(again), outside, serving=MIDDLE) is None


def test_a_selector_that_matches_nobody_is_refused_unless_that_is_said() -> None:
    nodes = [node("n1", site="a"), node("n2", site="b")]

    with pytest.raises(Refused, match=r"none of the 2 known nodes matches site=c.*--allow-empty"):
        begin(wish(labels={"site": "c"}), nodes)
    with pytest.raises(Refused, match="none is known yet"):
        begin(wish(labels={"site": "c"}))
    assert begin(wish(labels={"site": "c"}, force=True), nodes).name == "site-c"
    assert begin(wish(labels={"site": "b"}), nodes).deployment.selector == parse("site=b")


@pytest.mark.parametrize(
    ("running", "newer", "words"),
    [
        (wish(25, 100), wish(), "at 25 % of its nodes"),
        (wish(), wish(25, 100), "only 25 % of its nodes at first"),
        (wish(25, 100), wish(10, 100), "the nodes of this rollout's first stage"),
    ],
)
def test_a_rollout_that_would_leave_a_running_one_half_way_is_refused(running: Start, newer: Start, words: str) -> None:
    nodes = [node("n1", site="a"), node("n2", site="b")]
    before = begin(running, nodes)

    with pytest.raises(Refused, match=f"{words}.*rollout halt delay.*--supersede"):
        begin(newer, nodes, before=before)
    assert begin(newer.model_copy(update={"supersede": True}), nodes, before=before).deployment.state == "running"
    assert begin(newer.model_copy(update={"force": True}), nodes, before=before).deployment.state == "running"
    assert begin(newer, nodes, before=core.halt(before)).deployment.state == "running"


def test_a_rollout_that_addresses_all_nodes_of_a_running_one_needs_no_word() -> None:
    nodes = fleet(2)

    assert begin(wish(), nodes, before=begin(wish(), nodes)).deployment.state == "running"


def test_a_rollout_in_another_deployment_supersedes_none() -> None:
    nodes = [node("n1", site="a"), node("n2", site="b")]

    assert begin(wish(10, 100, labels={"site": "a"}), nodes, before=begin(wish(25, 100), nodes)).name == "site-a"


def test_soak_time_passes_only_while_the_hub_listens() -> None:
    good = Facts(fleet(4, serving=4))
    deaf = replace(good, listening=False)
    progress = begin(wish(soak_seconds=60), fleet(4))

    states = []
    for at, listened, facts in ((0, 0, good), (30, 30, good), (9_000, 30, deaf), (9_001, 30, good), (9_030, 59, good), (9_031, 60, good)):
        progress, _ = core.step(progress, facts, now=NOW + at, listened=Listened(float(listened)))
        states.append((progress.deployment.state, progress.reason))

    assert [state for state, _ in states] == ["running"] * 5 + ["done"]
    assert states[2][1] == core.DEAF
    assert states[3][1] == "the gate holds; it must for 30 s more"


def test_no_stage_passes_while_the_hub_does_not_listen_not_even_without_soak() -> None:
    nodes = fleet(4, serving=4)

    progress, actions = step(begin(wish(), nodes), Facts(nodes, listening=False), now=NOW)

    assert (progress.deployment.state, progress.reason, actions) == ("running", core.DEAF, ())


def test_a_rollout_names_the_process_that_is_missing_where_nodes_are_not_heard() -> None:
    nodes = fleet(4, serving=4)

    progress, _ = step(begin(wish(), nodes), Facts(nodes, listening=False, deaf="no process has shard 2/3"), now=NOW)

    assert progress.reason == f"{core.DEAF_BEGINS}: no process has shard 2/3"


def test_failures_halt_a_rollout_also_while_the_hub_does_not_listen() -> None:
    nodes = [node("n1", failed_at=NOW)]

    progress, _ = step(begin(wish(), nodes), Facts(nodes, listening=False), now=NOW)

    assert progress.deployment.state == "halted"


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_jump_of_the_walls_clock_does_not_change_the_soak_time(jump: int) -> None:
    nodes = fleet(4, serving=4)
    progress = begin(wish(soak_seconds=60), nodes)
    progress, _ = core.step(progress, Facts(nodes), now=NOW, listened=Listened(7.0))

    waits, _ = core.step(progress, Facts(nodes), now=NOW + jump, listened=Listened(66.5))
    over, _ = core.step(progress, Facts(nodes), now=NOW + jump, listened=Listened(67.0))

    assert (waits.deployment.state, waits.reason, over.deployment.state) == ("running", "the gate holds; it must for 1 s more", "done")


def test_a_stage_that_needs_approval_waits_for_it_and_then_begins() -> None:
    nodes = fleet(4)
    progress = begin(wish(25, 100).model_copy(update={"approve": (100,)}), nodes)

    waiting, actions = step(progress, Facts(served(progress, nodes)), now=NOW)
    approved = core.approve(waiting, actor="ada")
    after, _ = step(approved, Facts(served(progress, nodes)), now=NOW)

    assert (waiting.deployment, actions) == (progress.deployment, ())
    assert "stage 2 (100 %) needs approval" in waiting.reason
    assert approved.deployment != waiting.deployment
    assert approved.reason == "has stage 2 approved by ada"
    assert after.deployment.stage == 1
    with pytest.raises(Refused, match="waits for no approval"):
        core.approve(after)
    with pytest.raises(Refused, match="among those after the first"):
        begin(wish(25, 100).model_copy(update={"approve": (25,)}), nodes)


def test_a_retry_is_another_attempt_that_forgives_earlier_failures() -> None:
    nodes = [*fleet(9, serving=9), node("x", failed_at=NOW)]
    progress = begin(wish(receipts_ratio_min=0.95, failures_ratio_max=0.5), nodes)
    before, _ = step(progress, Facts(nodes), now=NOW)

    again = core.retry(before, now=NOW + 1)
    after, _ = step(again, Facts(nodes), now=NOW + 1)

    assert (before.tally.failed, after.tally.failed) == (1, 0)
    assert (before.deployment.attempt, again.deployment.attempt) == (None, 1)
    with pytest.raises(Refused, match="is rolled_back"):
        core.retry(core.roll_back(progress), now=NOW)


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
def test_whatever_changes_a_deployment_is_announced_and_nothing_else_is(history: list[tuple[int, int, bool, str]]) -> None:
    progress, now = begin(wish(20, 60, 100, soak_seconds=3), fleet(12), before=done()), NOW
    for serving, failing, alarm, kind in history:
        before, now = progress, now + 1
        nodes = [replace(one, failed_at=now if number >= 12 - failing else None) for number, one in enumerate(fleet(12, serving=serving))]
        try:
            if kind == "step":
                progress, actions = step(progress, Facts(nodes, drift_alarm="it drifts" if alarm else ""), now=now)
                assert any(isinstance(action, Announce) for action in actions) == (progress.deployment != before.deployment)
            else:
                progress = {"halt": core.halt, "resume": partial(core.resume, now=now), "roll_back": core.roll_back}[kind](progress)
        except Refused:
            assert progress == before
        assert progress.deployment.threshold >= before.deployment.threshold
        assert progress.deployment.stage in {before.deployment.stage, before.deployment.stage + 1}


THRESHOLD = Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0)


def with_parameters(progress: Progress, version: str = "1.1.0", **values: float) -> Progress:
    return core.set_parameters(progress, SetParameters(version=version, parameters=dict(values)), allowed=(THRESHOLD,))


def test_setting_a_parameter_changes_that_and_nothing_else() -> None:
    before = done(RELEASE)

    after = with_parameters(before, threshold=0.7)

    rows = (ReleaseParameters(RELEASE.digest, {"threshold": 0.7}),)
    assert after == replace(before, deployment=before.deployment.model_copy(update={"parameters": rows}))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_no_node_moves_however_often_parameters_are_set(values: list[float]) -> None:
    before = begin(wish(10, 50, 100), fleet(20))
    after = before
    for value in values:
        after = with_parameters(after, threshold=value)

    wants = [[gets(model(one), f"n{number}") for number in range(20)] for one in (before, after)]
    assert wants[0] == wants[1]
    assert after.deployment.parameters_of(RELEASE.digest) == {"threshold": values[-1]}


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
    by_label = begin(wish(labels={"site": "a"}), [node("n1", site="a")], before=before)

    for one in (running, again, by_label):
        assert one.deployment.fallback == OLD
        assert one.deployment.parameters_of(OLD.digest) == {"threshold": 0.7}
        assert one.deployment.parameters_of(RELEASE.digest) == {}


def test_after_going_back_parameters_are_those_of_the_release_that_is_served_again() -> None:
    back = core.roll_back(begin(wish(), fleet(1), before=done()))

    after = core.set_parameters(back, SetParameters(version="1.0.0", parameters={"threshold": 0.7}), allowed=(THRESHOLD,))

    rows = (ReleaseParameters(OLD.digest, {"threshold": 0.7}),)
    assert after.deployment == back.deployment.model_copy(update={"parameters": rows})
    with pytest.raises(Refused, match=r"expected 1\.1\.0, found 1\.0\.0"):
        with_parameters(back, threshold=0.7)


def test_a_stage_that_goes_on_keeps_what_is_set() -> None:
    nodes = fleet(20)
    progress = with_parameters(begin(wish(10, 100), nodes), threshold=0.7)

    progress, _ = step(progress, Facts(served(progress, nodes)), now=NOW)

    assert (progress.deployment.percent, progress.deployment.parameters_of(RELEASE.digest)) == (100, {"threshold": 0.7})


def test_a_rollout_that_begins_has_what_is_set_with_it_within_bounds() -> None:
    start = wish().model_copy(update={"parameters": {"threshold": 0.7}})
    begins = begun(model(), start, RELEASE, nodes=[], rollout=SALT, now=NOW, allowed=(THRESHOLD,))

    assert begins.deployment.parameters_of(RELEASE.digest) == {"threshold": 0.7}
    with pytest.raises(Refused, match="expected none, found threshold"):
        begun(model(), start, RELEASE, nodes=[], rollout=SALT, now=NOW)


def test_a_body_that_makes_no_sense_is_refused_by_its_field() -> None:
    with pytest.raises(Refused, match="parameters"):
        commands.read("set", '{"version": "1.0.0", "parameters": 3}')
