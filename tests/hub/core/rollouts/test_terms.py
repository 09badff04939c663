"""The terms of a rollout: named stages, approval, deadline, retries, minimum sample, latency, shadow, and nodes that say nothing."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hub.core.rollouts import gates
from hub.core.rollouts import rollout as core
from hub.core.rollouts.commands import Start
from hub.core.rollouts.deployments import Model, begun
from hub.core.rollouts.gates import Facts
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.rollout import Announce, Halted, Progress
from hub.core.rollouts.stages import parse_stages, words
from hub.core.rollouts.tally import NodeReport
from schemas.deployments import is_reached
from schemas.errors import Code, Refused
from schemas.rollout import Gate, ReleaseRef
from schemas.windows import parse_windows

OLD, NEW = ReleaseRef("1.0.0", bytes(32)), ReleaseRef("1.1.0", b"\1" * 32)
NOW = 1_800_000_000
LAB = "canary: site=lab; 10; 100"


def node(name: str, *, site: str = "jfk", serving: bool = False, **changes: object) -> NodeReport:
    return replace(NodeReport(name, {"site": site}, heard=True, serving=serving), **changes)


def fleet(count: int = 20, *, lab: int = 2) -> list[NodeReport]:
    return [node(f"n{number:02}", site="lab" if number < lab else "jfk") for number in range(count)]


def begin(nodes: Sequence[NodeReport], stages: str = "100", *, empty: bool = False, **said: object) -> Progress:
    gate = Gate.model_validate(said.pop("gate", {}))
    wish = Start.model_validate(
        {"version": "1.1.0", "stages": parse_stages(stages), "labels": {}, "gate": gate, "allow_empty": empty, **said}, strict=False
    )
    before = begun(Model("m"), Start(version="1.0.0", labels={}), OLD, nodes=(), rollout=bytes(16), now=1)
    settled = replace(before, deployment=before.deployment.model_copy(update={"state": "done"}))
    return begun(Model("m").with_rollout(settled), wish, NEW, nodes=nodes, rollout=b"r" * 16, now=NOW)


def look(
    progress: Progress, nodes: Sequence[NodeReport], *, after: float = 0, listening: bool = True
) -> tuple[Progress, tuple[core.Action, ...]]:
    return core.step(progress, Facts(nodes, listening=listening), now=NOW + int(after), listened=Listened(float(after)))


def served(progress: Progress, nodes: Sequence[NodeReport]) -> list[NodeReport]:
    return [replace(one, serving=is_reached(progress.deployment, one)) for one in nodes]


def reached(progress: Progress, nodes: Sequence[NodeReport]) -> set[str]:
    return {one.node for one in nodes if is_reached(progress.deployment, one)}


def refused(nodes: Sequence[NodeReport], stages: str = "100", **said: object) -> str:
    with pytest.raises(Refused) as refusal:
        begin(nodes, stages, **said)
    return refusal.value.reason


def verdict(progress: Progress, name: str) -> gates.Verdict:
    return next(one for one in progress.verdicts if one.name == name)


# Stages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,10,100", "1 %, 10 %, 100 %"),
        ("canary: site=lab; 10; 100", "canary, 10 %, 100 %"),
        (" site=lab ;10%, 50 ; 100", "site-lab, 10 %, 50 %, 100 %"),
        ("first: node in (n01,n02),!gpu; 100", "first, 100 %"),
    ],
)
def test_stages_are_percents_and_selectors(text: str, expected: str) -> None:
    assert words(begin(fleet(), text, empty=True).deployment.stages) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,100", "part 1, '0,100': '0' is no percentage from 1 to 100"),
        ("1,x", "part 1, '1,x': 'x' is no percentage from 1 to 100"),
        ("all,100", "'all' is no percentage"),
        ("10.5,100", "'10.5' is no percentage"),
        ("-1,100", "'-1' is no percentage"),
        ("200", "'200' is no percentage"),
        ("10,,100", "part 1, '10,,100': '' is no percentage"),
        ("10; canary:; 100", "part 2, 'canary:': it has no selector"),
        ("10; 2x: site=lab; 100", "part 2, '2x: site=lab': '2x' is no name of a stage"),
        ("10; site==; 100", "part 2, 'site==': it is neither percents nor a selector"),
        ("10;" * 33 + "100", "there are 34 stages, at most 32"),
        ("x" * 5000, "5000 characters"),
        ("50,10", "must rise and end at 100, not 50, 10"),
        ("canary: site=lab", "must rise and end at 100, not canary"),
        ("a: site=lab; a: site=jfk; 100", "two stages are called a"),
    ],
)
def test_stages_that_cannot_be_are_refused_with_the_place(text: str, expected: str) -> None:
    assert expected in refused(fleet(), text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("canary: siet=lab; 100", "stage canary: No node has a label siet. Did you mean site?"),
        ("canary: site=lba; 100", "stage canary: none of the 20 known nodes matches site=lba. 2 match site=lab."),
    ],
)
def test_a_named_stage_that_matches_nobody_is_refused_unless_insisted_upon(text: str, expected: str) -> None:
    assert expected in refused(fleet(), text)
    assert begin(fleet(), text, empty=True).deployment.state == "running"


def test_a_named_stage_moves_its_nodes_alone_and_percents_follow() -> None:
    nodes = fleet()
    progress = begin(nodes, LAB)
    seen = [reached(progress, nodes)]
    for _ in range(2):
        progress, _ = look(progress, served(progress, nodes))
        seen.append(reached(progress, nodes))
    assert seen[0] == {"n00", "n01"}
    assert seen[0] <= seen[1]
    assert 2 <= len(seen[1]) <= 4
    assert len(seen[2]) == len(nodes)


def test_a_halt_names_the_stage_in_which_it_was() -> None:
    nodes = [replace(one, failed_at=NOW) for one in fleet()]
    progress, actions = look(begin(nodes, LAB), nodes)
    assert progress.deployment.state == "halted"
    assert [type(one) for one in actions] == [Announce, Halted]
    assert "halted at canary: 2 of 2 nodes refused it" in actions[0].text


# Approval


@pytest.mark.parametrize("approve", [10, "100", "canary", "nobody"])
def test_only_a_later_stage_can_wait_for_approval(approve: int | str) -> None:
    if approve == 10:
        assert begin(fleet(), LAB, approve=(10,)).deployment.stages[1].approve is True
        return
    assert "those after the first (10, 100)" in refused(fleet(), LAB, approve=(approve,))


def test_a_stage_that_needs_approval_waits_and_says_so() -> None:
    nodes = fleet()
    progress = begin(nodes, LAB, approve=(10,))
    progress, actions = look(progress, served(progress, nodes))
    assert (progress.deployment.stage, actions) == (0, ())
    assert progress.reason == "waits: stage 2 (10 %) needs approval; 2 of 2 nodes heard from serve it"
    assert verdict(progress, "approval").outcome == "waits"

    approved = core.approve(progress)
    assert look(approved, served(approved, nodes))[0].deployment.stage == 1


def test_a_stage_can_be_approved_before_its_turn() -> None:
    nodes = fleet()
    approved = core.approve(begin(nodes, LAB, approve=(10,)))
    waiting, _ = look(approved, nodes)
    assert waiting.deployment.stage == 0
    assert look(approved, served(approved, nodes))[0].deployment.stage == 1


# Deadline and windows


def test_a_deadline_in_the_past_is_refused() -> None:
    assert "the deadline 2027-01-15 08:00 UTC has passed, it is 2027-01-15 08:00 UTC" in refused(fleet(), deadline=NOW)


def test_a_window_that_does_not_open_before_the_deadline_is_refused() -> None:
    windows = parse_windows("Wed 10:00-11:00")  # `NOW` is a Friday.
    with pytest.raises(Refused) as refusal:
        begin(fleet(), activate=windows, deadline=NOW + 24 * 3600)
    assert (refusal.value.code, "'Wed 10:00-11:00' does not open before" in refusal.value.reason) == (Code.WINDOW_INVALID, True)
    assert begin(fleet(), activate=windows, deadline=NOW + 6 * 24 * 3600).deployment.activate == windows


# NOW is a Friday, 08:00 UTC.
@pytest.mark.parametrize(
    ("fetch", "activate", "hours", "words"),
    [
        ("Sun 01:00-02:00", None, 24, "fetch 'Sun 01:00-02:00' does not open before the deadline"),
        ("Sun 22:00-24:00", "Sat 01:00-03:00", 90, "lets a node first fetch ('Sun 22:00-24:00') and then switch ('Sat 01:00-03:00')"),
        ("Sat 10:00-11:00", "Sat 08:00-09:00", 60, "in any zone: give a later deadline, or other times"),
    ],
)
def test_times_to_fetch_and_to_switch_that_never_come_in_turn_are_refused(fetch: str, activate: str | None, hours: int, words: str) -> None:
    times = {"carriage": {"fetch": parse_windows(fetch)}, **({"activate": parse_windows(activate)} if activate else {})}

    assert words in refused(fleet(), deadline=NOW + hours * 3600, **times)
    assert begin(fleet(), deadline=NOW + 15 * 24 * 3600, **times).deployment.deadline is not None
    assert begin(fleet(), **times).deployment.deadline is None


def test_times_that_are_open_together_are_taken() -> None:
    times = {"carriage": {"fetch": parse_windows("Sat 01:00-06:00")}, "activate": parse_windows("Sat 02:00-03:00")}
    assert begin(fleet(), deadline=NOW + 48 * 3600, **times).deployment.activate is not None


def test_at_its_deadline_a_rollout_is_done_for_the_nodes_that_serve() -> None:
    nodes = fleet()
    progress = begin(nodes, LAB, deadline=NOW + 60, gate={"soak_seconds": 999})
    nodes = served(progress, nodes)
    nodes[5] = replace(nodes[5], heard=False)
    progress, _ = look(progress, nodes, after=59)
    assert progress.deployment.state == "running"

    done, actions = look(progress, nodes, after=60)
    assert done.deployment.state == "done"
    assert done.reason == ("the deadline has passed: 2 of 20 nodes serve it, 17 expired and stay on what they serve, 1 was not heard")
    assert [type(one) for one in actions] == [Announce]
    after, _ = look(done, nodes, after=70)
    assert (after.tally.addressed, after.tally.expired) == (3, 17)


def test_a_rollout_that_nobody_serves_at_its_deadline_halts() -> None:
    progress, actions = look(begin(fleet(), deadline=NOW + 60), fleet(), after=60)
    assert progress.deployment.state == "halted"
    assert "the deadline has passed and no node serves it: 20 expired" in progress.reason
    assert [type(one) for one in actions] == [Announce, Halted]


def test_a_deaf_hub_does_not_end_a_rollout_at_its_deadline() -> None:
    progress, actions = look(begin(fleet(), deadline=NOW + 60), fleet(), after=60, listening=False)
    assert (progress.deployment.state, progress.reason, actions) == ("running", core.DEAF, ())


def test_more_failures_than_may_be_halt_also_after_the_deadline() -> None:
    nodes = [replace(one, failed_at=NOW + 1) for one in fleet()]
    progress, _ = look(begin(nodes, deadline=NOW + 60), nodes, after=60)
    assert (progress.deployment.state, "20 of 20 nodes refused it" in progress.reason) == ("halted", True)


# Retries


def failing(nodes: Sequence[NodeReport], *, at: float, tried: int = 1) -> list[NodeReport]:
    return [replace(one, failed_at=NOW + int(at), tried=tried) for one in nodes]


def test_failed_nodes_try_again_after_a_pause_and_halt_when_no_attempt_is_left() -> None:
    nodes, progress = fleet(4), begin(fleet(4), gate={"retries": 2, "retry_seconds": 100})
    seen = []
    for second in range(0, 400, 10):
        nodes = failing(nodes, at=second, tried=1 + (progress.deployment.attempt or 0))  # Each attempt fails at once.
        progress, actions = look(progress, nodes, after=second)
        seen += [(second, type(one).__name__) for one in actions]
        if progress.deployment.state != "running":
            break
    assert seen == [(100, "Announce"), (210, "Announce"), (220, "Announce"), (220, "Halted")]
    assert progress.deployment.attempt == 2


def test_a_node_with_an_attempt_left_holds_the_rollout_up_and_does_not_halt_it() -> None:
    nodes = failing(fleet(4), at=5)
    progress, _ = look(begin(nodes, gate={"retries": 1, "retry_seconds": 100}), nodes, after=6)
    assert progress.deployment.state == "running"
    assert progress.reason == "waits: 4 of 4 nodes refused it or rolled back, at most 5% may; they try again in 100 s, and may once more"
    assert verdict(progress, "failures").outcome == "waits"


def test_a_pause_before_an_attempt_does_not_pass_while_the_hub_is_deaf() -> None:
    nodes, progress = failing(fleet(4), at=5), begin(fleet(4), gate={"retries": 1, "retry_seconds": 100})
    progress, _ = look(progress, nodes, after=6, listening=False)
    assert progress.retry_since is None
    progress, _ = look(progress, nodes, after=500, listening=False)
    assert (progress.deployment.attempt, progress.reason) == (None, core.DEAF)


def test_a_node_that_has_used_up_its_tries_takes_none_from_the_others() -> None:
    nodes = fleet(40)
    progress = begin(nodes, gate={"retries": 1, "retry_seconds": 10, "failures_ratio_max": 0.05})
    bad = failing(nodes[:1], at=1, tried=2)
    progress, _ = look(progress, [*bad, *nodes[1:]], after=1)
    assert (progress.deployment.state, progress.deployment.attempt, progress.tally.failed) == ("running", None, 1)

    later = [*bad, *failing(nodes[1:4], at=20), *nodes[4:]]
    progress, _ = look(progress, later, after=20)
    assert progress.reason.endswith(
        "4 of 40 nodes refused it or rolled back, at most 5% may; 3 of them try again in 10 s, and may once more"
    )
    progress, actions = look(progress, later, after=30)
    assert (progress.deployment.attempt, len(actions)) == (1, 1)
    progress, _ = look(progress, later, after=31)
    assert (progress.deployment.state, progress.tally.failed) == ("running", 1), "the bad one counts, and the others are given time"


def test_nodes_without_tries_halt_the_rollout_though_others_have_some_left() -> None:
    nodes = fleet(4)
    progress = begin(nodes, gate={"retries": 1, "retry_seconds": 10})
    progress, _ = look(progress, [*failing(nodes[:1], at=1, tried=2), *failing(nodes[1:], at=1)], after=1)
    assert progress.deployment.state == "halted"


def test_an_operator_who_resumes_gives_each_node_its_tries_anew() -> None:
    nodes = failing(fleet(4), at=1, tried=2)
    progress, _ = look(begin(nodes, gate={"retries": 1, "retry_seconds": 10}), nodes, after=1)
    progress = core.resume(progress, now=NOW + 2)
    assert (progress.tries_from, progress.judged_from) == (NOW + 2, NOW + 2)


def test_a_rollout_that_is_done_says_what_is_so_now() -> None:
    nodes = fleet(4)
    progress = begin(nodes)
    progress, _ = look(progress, served(progress, nodes), after=1)
    assert (progress.deployment.state, progress.reason) == ("done", "4 of 4 nodes heard from serve it")

    back = [replace(nodes[0], failed_at=NOW + 5, outcome="rolled_back"), *served(progress, nodes)[1:]]
    progress, actions = look(progress, back, after=6)
    assert (progress.reason, actions) == ("3 of 4 nodes heard from serve it, 1 refused it or rolled back", ())
    assert verdict(progress, "failures").outcome == "fails"

    silent = [replace(back[0], failed_at=None, heard=False), *served(progress, nodes)[1:]]
    assert look(progress, silent, after=7)[0].reason == "3 of 3 nodes heard from serve it, 1 is silent"
    assert look(progress, served(progress, nodes), after=8)[0].reason == "4 of 4 nodes heard from serve it"


# Sample, latency, shadow


def test_so_many_nodes_of_a_stage_must_serve_as_the_gate_asks_for() -> None:
    nodes = fleet()
    progress = begin(nodes, "20,100", gate={"nodes_min": 4, "receipts_ratio_min": 0.5})
    some = served(progress, nodes)
    one = next(number for number, each in enumerate(some) if each.serving)
    some[one] = replace(some[one], serving=False)
    waiting, _ = look(progress, some)
    assert waiting.reason == "waits: 3 nodes serve it, at least 4 must"
    assert look(progress, served(progress, nodes))[0].deployment.stage == 1


def test_a_stage_smaller_than_its_minimum_sample_is_refused() -> None:
    assert "stage 5 % reaches 1 of the 20 known nodes, and the gate asks for 4" in refused(fleet(), "5,100", gate={"nodes_min": 4})
    assert "stage 100 % reaches 20" in refused(fleet(), "100", gate={"nodes_min": 21})
    assert begin(fleet(), "5,100", gate={"nodes_min": 4}, empty=True).deployment.state == "running"


@pytest.mark.parametrize(
    ("ratios", "state", "outcome"),
    [((0.9, 1.1, 9.0), "done", "holds"), ((1.6, 1.1, 9.0), "halted", "fails"), ((), "running", "cannot be judged")],
)
def test_latency_is_compared_with_the_release_before_on_the_same_node(ratios: tuple[float, ...], state: str, outcome: str) -> None:
    nodes = [node(f"n{number}", serving=True) for number in range(3)]
    for number, ratio in enumerate(ratios):
        nodes[number] = replace(nodes[number], latency_ratio=ratio)
    progress, _ = look(begin(nodes, gate={"latency_ratio_max": 1.5}), nodes)
    assert (progress.deployment.state, verdict(progress, "latency").outcome) == (state, outcome)
    assert ("median of 3 nodes" if ratios else "no node that serves it") in verdict(progress, "latency").sentence


def test_one_slow_node_does_not_halt_a_stage_before_enough_nodes_serve() -> None:
    nodes = [node("n0", serving=True, latency_ratio=9.0), node("n1")]
    progress, _ = look(begin(nodes, gate={"latency_ratio_max": 1.5}), nodes)
    assert (progress.deployment.state, verdict(progress, "latency").outcome) == ("running", "waits")


@pytest.mark.parametrize(
    ("shadows", "state", "outcome"),
    [
        (("passed", "passed", "passed"), "done", "holds"),
        (("passed", "passed", None), "halted", "fails"),
        ((None, None, None), "running", "cannot be judged"),
    ],
)
def test_the_comparison_in_shadow_must_have_passed_on_a_share_of_the_nodes(
    shadows: tuple[str | None, ...], state: str, outcome: str
) -> None:
    nodes = [node(f"n{number}", serving=True, shadow=shadow) for number, shadow in enumerate(shadows)]
    progress, _ = look(begin(nodes, gate={"shadow_ratio_min": 0.9}), nodes)
    assert (progress.deployment.state, verdict(progress, "shadow").outcome) == (state, outcome)


# Silence


def test_a_canary_that_says_nothing_ends_the_soak_before_it_counts_as_silent() -> None:
    nodes, progress = fleet(), begin(fleet(), LAB, gate={"soak_seconds": 100})
    both = served(progress, nodes)
    progress, _ = look(progress, both, after=10)
    assert progress.held_since == 10
    still = [replace(both[0], quiet=True), *both[1:]]
    progress, _ = look(progress, still, after=60)
    assert progress.held_since is None
    assert "1 of 2 nodes heard from serves it, 95% must; 1 node serves it but has said nothing" in progress.reason
    progress, _ = look(progress, both, after=70)
    progress, _ = look(progress, both, after=169)
    assert progress.deployment.stage == 0
    assert look(progress, both, after=170)[0].deployment.stage == 1


def test_verdicts_survive_being_kept_and_others_are_left_out() -> None:
    nodes = fleet()
    progress, _ = look(begin(nodes, LAB, approve=(10,), gate={"soak_seconds": 9, "retries": 1}), nodes)
    assert [one.name for one in progress.verdicts] == ["failures", "receipts", "soak", "approval"]
    assert gates.from_json(gates.as_json(progress.verdicts)) == progress.verdicts
    assert gates.from_json('[{"name": "of a later version"}]') == ()
