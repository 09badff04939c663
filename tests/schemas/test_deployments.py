"""Deployments: one of them decides, a share is a count, who is not in the stage keeps what it has, and each node goes back to its own."""

from math import ceil

import pytest
from pydantic import ValidationError

from schemas import codec
from schemas.deployments import (
    DEFAULT,
    EVERYBODY,
    Deployment,
    Deployments,
    Keep,
    Moved,
    Run,
    Stage,
    Stop,
    deciding,
    in_order,
    moved_by,
    name_of,
    position,
    threshold_of,
    wish,
)
from schemas.earlier_rollouts import as_deployments
from schemas.rollout import Fallback, ReleaseRef, Rollout, bucket
from schemas.selectors import NodeFacts, parse
from tests.earlier_node import wanted as earlier_wanted

ONE, TWO, THREE = (ReleaseRef(f"1.{number}.0", bytes([number]) * 32) for number in range(3))
SALT = b"s" * 16
NODE = NodeFacts("jfk-2", {"site": "jfk"})


def deployment(name: str = DEFAULT, **changes: object) -> Deployment:
    fields: dict[str, object] = {"name": name, "release": TWO, "fallback": ONE, "state": "done", "rollout": SALT, "started": 1}
    return Deployment.model_validate(fields | changes)


def test_the_first_that_matches_decides_by_priority_then_name() -> None:
    low, high = deployment("b", priority=1, selector=parse("site=jfk")), deployment("z", priority=2, selector=parse("site=jfk"))
    twin, everybody = deployment("a", priority=1, selector=parse("site")), deployment()
    order = in_order([everybody, low, twin, high])
    assert [one.name for one in order] == ["z", "a", "b", DEFAULT]
    assert deciding(order, NODE) == high
    assert deciding(order[1:], NODE) == twin
    assert deciding(order, NodeFacts("x", {})) == everybody
    assert deciding(order[:3], NodeFacts("x", {})) is None


@pytest.mark.parametrize("nodes", [1, 3, 4, 7, 50, 1000])
@pytest.mark.parametrize("percent", [1, 10, 25, 33, 50, 99, 100])
def test_a_share_is_a_count(nodes: int, percent: int) -> None:
    names = [f"node-{number}" for number in range(nodes)]
    threshold = threshold_of(SALT, percent, names)
    assert sum(position(SALT, name) < threshold for name in names) == ceil(percent * nodes / 100)


def test_no_node_moves_without_a_stage_that_names_it() -> None:
    first = deployment(state="running", stages=(Stage(1), Stage(100)), threshold=0)
    assert wish(first, NODE, serving=THREE.digest, moved=None, now=0) == Keep("not_reached")
    began = wish(first, NODE, serving=None, moved=None, now=0)
    assert isinstance(began, Run)
    assert (began.release, began.why) == (ONE, "fallback")
    by_name = deployment(state="running", stages=(Stage(name="site", selector=parse("site=jfk")), Stage(100)), threshold=0)
    reached = wish(by_name, NODE, serving=ONE.digest, moved=None, now=0)
    assert isinstance(reached, Run)
    assert reached.release == TWO


def test_a_halted_rollout_moves_no_node_and_a_new_one_begins_with_the_fallback() -> None:
    halted = deployment(state="halted")
    assert wish(halted, NODE, serving=THREE.digest, moved=None, now=0) == Keep("halted")
    began = wish(halted, NODE, serving=None, moved=None, now=0)
    assert isinstance(began, Run)
    assert (began.release, began.why) == (ONE, "fallback")
    assert wish(deployment(state="halted", fallback=None), NODE, serving=None, moved=None, now=0) == Keep("halted")


def test_each_node_goes_back_to_its_own_release() -> None:
    running = deployment(state="running")
    to_two = wish(running, NODE, serving=THREE.digest, moved=None, now=0)
    memory = moved_by(running, to_two, serving=THREE, moved=None)
    assert memory == Moved(rollout=SALT, before=THREE, deployment=DEFAULT)
    assert moved_by(running, to_two, serving=TWO, moved=memory) is None  # what it ran before is not forgotten once it has moved
    back = deployment(state="rolled_back")
    found = wish(back, NODE, serving=TWO.digest, moved=memory, now=0)
    assert isinstance(found, Run)
    assert (found.release, found.why) == (THREE, "back")
    untouched = wish(back, NODE, serving=THREE.digest, moved=None, now=0)
    assert untouched == Keep("not_reached")
    forgetful = wish(back, NODE, serving=TWO.digest, moved=None, now=0)
    assert isinstance(forgetful, Run)
    assert forgetful.release == ONE


def test_a_node_that_joins_a_deployment_that_went_back_takes_what_the_others_serve() -> None:
    back = deployment("site-jfk", state="rolled_back", selector=parse("site=jfk"))
    elsewhere = Moved(rollout=b"o" * 16, before=ONE, deployment=DEFAULT)
    joined = wish(back, NODE, serving=THREE.digest, moved=elsewhere, now=0)
    assert isinstance(joined, Run)
    assert joined.release == ONE
    assert wish(back, NODE, serving=THREE.digest, moved=elsewhere.model_copy(update={"deployment": "site-jfk"}), now=0) == Keep(
        "not_reached"
    )


def test_a_first_release_can_be_taken_back_to_nothing() -> None:
    back = deployment(state="rolled_back", fallback=None)
    assert wish(back, NODE, serving=TWO.digest, moved=Moved(rollout=SALT), now=0) == Stop()
    assert wish(back, NODE, serving=None, moved=None, now=0) == Keep("not_reached")


def test_after_its_deadline_a_rollout_moves_no_node_that_has_not_moved() -> None:
    late = deployment(state="running", deadline=100)
    assert wish(late, NODE, serving=ONE.digest, moved=None, now=100) == Keep("expired")
    assert isinstance(wish(late, NODE, serving=TWO.digest, moved=None, now=100), Run)
    assert isinstance(wish(late, NODE, serving=ONE.digest, moved=None, now=99), Run)


def test_after_a_deadline_only_a_node_that_serves_nothing_is_moved() -> None:
    ended = deployment(state="done", deadline=100)
    assert wish(ended, NODE, serving=ONE.digest, moved=None, now=100) == Keep("expired")
    new = wish(ended, NODE, serving=None, moved=None, now=100)
    assert isinstance(new, Run)
    assert new.release == TWO
    in_time = wish(ended, NODE, serving=ONE.digest, moved=None, now=99)
    assert isinstance(in_time, Run)


def test_another_attempt_is_another_wish_for_the_same_release() -> None:
    first, second = (wish(deployment(attempt=attempt), NODE, serving=None, moved=None, now=0) for attempt in (0, 1))
    assert isinstance(first, Run)
    assert isinstance(second, Run)
    assert first.release == second.release
    assert first.rollout != second.rollout


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": (Stage(50), Stage(10), Stage(100))},
        {"stages": (Stage(50),)},
        {"stages": (Stage(),)},
        {"stages": (Stage(50, selector=parse("a")), Stage(100))},
        {"stage": 1},
        {"selector": parse("a")},
        {"deadline": -1},
    ],
)
def test_an_impossible_deployment_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        deployment(**changes)


def test_a_statement_out_of_order_or_with_a_name_twice_is_refused() -> None:
    one = deployment("a", selector=parse("x"))
    for wrong in ((deployment(), one), (one, one)):
        with pytest.raises(ValidationError):
            Deployments(model="delay", serial=1, expires=1, deployments=wrong)
    statement = Deployments(model="delay", serial=1, expires=1, deployments=(one, deployment()))
    assert codec.decode(Deployments, codec.encode(statement)) == statement


def test_two_selectors_get_two_names() -> None:
    texts = ["site=jfk", "site!=jfk", "site=JFK", "!site", "site", "site in (a,b)", "site=a,b", "node=x", "default", "a-b", "a.b"]
    assert len({name_of(parse(text)) for text in texts}) == len(texts)
    assert name_of(parse("site=jfk")) == "site-jfk"
    assert name_of(()) == DEFAULT


@pytest.mark.parametrize("state", ["running", "halted", "done", "rolled_back"])
@pytest.mark.parametrize("labels", [{}, {"ring": "canary"}])
@pytest.mark.parametrize("percent", [1, 50, 100])
def test_an_earlier_hubs_rollout_moves_the_same_nodes_as_before(state: str, labels: dict[str, str], percent: int) -> None:
    rollout = Rollout.model_validate(
        {
            "model": "delay",
            "serial": 3,
            "release": THREE,
            "state": state,
            "stages": (percent, 100) if percent < 100 else (100,),
            "salt": SALT,
            "labels": labels,
            "fallbacks": (Fallback(labels={"ring": "canary"}, release=TWO), Fallback(labels={}, release=ONE)),
            "started": 1,
        }
    )
    statement = as_deployments(rollout, expires=9)
    for number in range(60):
        facts = NodeFacts(f"node-{number}", {"ring": "canary"} if number % 2 else {})
        decides = deciding(statement.deployments, facts)
        before = TWO if number % 2 else ONE
        for serving in (before, THREE):
            earlier = earlier_wanted(rollout, node=facts.node, labels=facts.labels, serving=serving.digest)
            expected = earlier or serving
            memory = Moved(rollout=SALT, before=before) if serving == THREE else None
            found = wish(decides, facts, serving=serving.digest, moved=memory, now=0)
            if serving == THREE and (labels and not number % 2):
                continue  # a node that has left the group of a rollout: it belongs to where it now is
            if serving == THREE and state != "rolled_back" and bucket(SALT, facts.node) >= rollout.percent:
                continue  # it cannot have been moved yet
            assert (found.release if isinstance(found, Run) else serving) == expected, (number, serving, found)
    assert max(one.threshold for one in statement.deployments) == EVERYBODY or percent < 100
