"""What nodes of the version before read: no node is moved other than the deployments say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.rollouts.earlier_nodes import as_rollout, percent_of
from schemas import codec
from schemas.deployments import DEFAULT, EVERYBODY, Deployment, Deployments, Moved, Run, Stage, deciding, in_order, threshold_of, wish
from schemas.names import sha256
from schemas.rollout import Carriage, Gate, ReleaseRef, Rollout
from schemas.selectors import NodeFacts, parse
from schemas.windows import parse_windows
from tests.earlier_node import wanted

ONE, TWO, THREE = (ReleaseRef(f"1.{number}.0", sha256(bytes([number]))) for number in range(3))
NODES = [NodeFacts(f"n{number}", {"ring": "canary"} if number % 4 == 0 else {"ring": "main"}) for number in range(60)]


def deployment(name: str = DEFAULT, **changes: object) -> Deployment:
    fields: dict[str, object] = {"name": name, "release": TWO, "fallback": ONE, "state": "done", "rollout": b"r" * 16, "started": 1}
    return Deployment.model_validate(fields | changes)


def statement(*deployments: Deployment) -> Deployments:
    return Deployments(model="delay", serial=7, expires=9, deployments=tuple(in_order(deployments)))


def said(*deployments: Deployment) -> Rollout:
    found = as_rollout(statement(*deployments), NODES)
    assert found is not None
    return codec.decode(Rollout, codec.encode(found))


def test_a_rollout_to_all_is_the_same_rollout() -> None:
    names = [node.node for node in NODES]
    found = said(deployment(state="running", stages=(Stage(25), Stage(100)), threshold=threshold_of(b"r" * 16, 25, names)))

    reached = [node for node in NODES if wanted(found, node=node.node, labels=node.labels, serving=ONE.digest) == TWO]
    assert (found.serial, found.labels, found.fallback, found.state) == (7, {}, ONE, "running")
    assert 15 <= len(reached) <= 17  # A whole percent may reach a node more.


@pytest.mark.parametrize("nodes", [1, 3, 40, 1000])
def test_the_whole_percent_reaches_as_many_as_the_threshold_and_one_less_does_not(nodes: int) -> None:
    names = [f"n{number}" for number in range(nodes)]
    one = deployment(state="running", stages=(Stage(30), Stage(100)), threshold=threshold_of(b"r" * 16, 30, names))

    found = percent_of(one, names)

    def reaches(percent: int) -> int:
        rollout = said(one).model_copy(update={"stages": (percent,), "stage": 0})
        return sum(wanted(rollout, node=name, labels={}, serving=None) == TWO for name in names)

    assert reaches(found) >= -(-nodes * 30 // 100)
    assert found == 1 or reaches(found - 1) < -(-nodes * 30 // 100)
    assert percent_of(one, []) == -(-one.threshold * 100 // 2**64)


def test_a_rollout_by_labels_beside_a_settled_one_is_a_rollout_by_labels() -> None:
    found = said(deployment(release=ONE), deployment("ring", selector=parse("ring=canary"), priority=1, state="running"))

    assert (found.labels, found.release, found.state) == ({"ring": "canary"}, TWO, "running")
    assert [(one.labels, one.release) for one in found.fallbacks or ()] == [({"ring": "canary"}, ONE), ({}, ONE)]


@pytest.mark.parametrize(
    "deployments",
    [
        (deployment(state="running"), deployment("ring", selector=parse("ring=canary"))),
        (deployment(state="running"), deployment("ring", selector=parse("ring=canary"), state="running")),
        (deployment(), deployment("hold", selector=parse("node=n1"))),
        (deployment(), deployment("ring", selector=parse("ring!=main"), state="running")),
        (deployment(), deployment("a", selector=parse("x=1"), priority=2), deployment("b", selector=parse("y=1"), state="running")),
        (deployment(state="running", stages=(Stage(selector=parse("x")), Stage(100)), threshold=0),),
        (deployment(state="running", deadline=99),),
        (deployment(state="running", activate=((1, 0, 60),)),),
        (deployment(state="running", carriage={"fetch": ((1, 0, 60),)}),),
        (deployment(deadline=99),),
    ],
)
def test_what_the_earlier_document_cannot_say_is_halted(deployments: tuple[Deployment, ...]) -> None:
    assert said(*deployments).state == "halted"


def test_terms_that_earlier_nodes_do_not_know_are_left_out_of_their_document() -> None:
    terms = {"nodes_min": 3, "latency_ratio_max": 1.5, "shadow_ratio_min": 0.5, "retries": 2, "retry_seconds": 9}
    gate = Gate.model_validate({"soak_seconds": 5, "drift_tests_min": 1, **terms})
    found = said(deployment(state="done", gate=gate, carriage=Carriage(priority=7, fetch=parse_windows("22:00-05:00"))))

    assert found.gate == Gate(soak_seconds=5, drift_tests_min=1)
    assert found.carriage == Carriage(priority=7)
    assert not any(name.encode() in codec.encode(found) for name in [*terms, "fetch"])


def test_no_deployment_is_no_document() -> None:
    assert as_rollout(statement(), NODES) is None


selectors = st.sampled_from(["ring=canary", "ring=main", "ring!=main", "node=n4", "ring", "!ring"])
states = st.sampled_from(["running", "halted", "done", "rolled_back"])
releases = st.sampled_from([ONE, TWO, THREE])


@st.composite
def several(draw: st.DrawFn) -> list[Deployment]:
    found = []
    names = draw(st.lists(st.sampled_from(["a", "b", DEFAULT]), unique=True, min_size=1, max_size=3))
    for name in names:
        stages = (Stage(draw(st.sampled_from([20, 50]))), Stage(100)) if draw(st.booleans()) else (Stage(100),)
        salt = name.encode()[:1] * 16
        known = [node.node for node in NODES]
        found.append(
            deployment(
                name,
                selector=() if name == DEFAULT else parse(draw(selectors)),
                priority=0 if name == DEFAULT else draw(st.integers(0, 2)),
                release=draw(releases),
                fallback=draw(st.none() | releases),
                state=draw(states),
                stages=stages,
                rollout=salt,
                threshold=EVERYBODY if len(stages) == 1 else threshold_of(salt, stages[0].percent or 0, known),
            )
        )
    return found


@settings(max_examples=300, deadline=None)
@given(several(), st.sampled_from(NODES), st.none() | releases)
def test_an_earlier_node_goes_nowhere_that_its_deployment_does_not_send_it(
    deployments: list[Deployment], node: NodeFacts, serving: ReleaseRef | None
) -> None:
    order = in_order(deployments)
    rollout = said(*deployments)
    decides = deciding(order, node)
    target = wanted(rollout, node=node.node, labels=node.labels, serving=serving.digest if serving else None)
    if target is None or target == serving:
        return

    assert decides is not None
    memory = Moved(rollout=decides.rollout, before=None) if decides.state == "rolled_back" else None
    found = wish(decides, node, serving=serving.digest if serving else None, moved=memory, now=0)
    is_one_more = decides.state == "running" and target == decides.release  # A whole percent may reach more than the threshold.
    assert is_one_more or (isinstance(found, Run) and found.release == target)
