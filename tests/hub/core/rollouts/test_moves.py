"""Which nodes a change of deployments or labels moves to another release, from which one and to which one."""

from hub.core.rollouts.moves import Movement, movements, unmoved
from schemas.deployments import DEFAULT, Deployment, RolloutState, Stage, in_order
from schemas.names import sha256
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts, parse

ONE, TWO = (ReleaseRef(f"{number}.0.0", sha256(bytes([number]))) for number in (1, 2))
NODES = [NodeFacts(f"n{number}", {"ring": "old" if number < 3 else "new"}) for number in range(5)]


def deployment(name: str, release: ReleaseRef, where: str = "", state: RolloutState = "done", **more: object) -> Deployment:
    selector = parse(where) if where else ()
    return Deployment.model_validate(
        {"name": name, "selector": selector, "release": release, "state": state, "rollout": bytes(16), "started": 0, **more}
    )


ALL = deployment(DEFAULT, TWO)
HOLD = deployment("hold", ONE, "ring=old", priority=10)


def test_taking_a_deployment_away_moves_its_nodes_to_the_next_one() -> None:
    assert movements([HOLD, ALL], [ALL], unmoved(NODES), serving={}) == (Movement(ONE, TWO, 3),)


def test_a_node_that_serves_the_release_already_does_not_move() -> None:
    assert movements([HOLD, ALL], [ALL], unmoved(NODES), serving={"n0": TWO}) == (Movement(ONE, TWO, 2),)


def test_a_node_that_another_change_is_moving_is_not_counted() -> None:
    assert movements([HOLD, ALL], [HOLD, ALL], unmoved(NODES), serving={"n4": ONE}) == ()
    assert movements([HOLD], [], unmoved(NODES), serving={"n0": ONE}) == ()


def test_a_rollout_under_way_moves_nodes_also_before_their_stage() -> None:
    begun = deployment(DEFAULT, TWO, state="running", stages=(Stage(1), Stage(100)), threshold=0, fallback=ONE)

    assert movements([HOLD, begun], [begun], unmoved(NODES), serving={}) == (Movement(ONE, TWO, 3),)
    assert movements([begun], [ALL], unmoved(NODES), serving={}) == ()


def test_one_that_was_taken_back_moves_nodes_to_what_it_fell_back_to() -> None:
    back = deployment(DEFAULT, TWO, state="rolled_back", fallback=ONE)
    hold = deployment("hold", TWO, "ring=old", priority=10)

    assert movements([hold, back], in_order([back]), unmoved(NODES), serving={}) == (Movement(TWO, ONE, 3),)


def test_a_change_of_labels_moves_a_node_to_what_then_decides() -> None:
    facts = [(NODES[0], NodeFacts("n0", {"ring": "new"}))]

    assert movements([HOLD, ALL], [HOLD, ALL], facts, serving={}) == (Movement(ONE, TWO, 1),)
