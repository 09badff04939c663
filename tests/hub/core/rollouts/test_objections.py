"""What the refusal of a start says of the rollout that it would end."""

import pytest

from hub.core.rollouts.rollout import NodeFacts, Start, begin, objections
from schemas.names import sha256
from schemas.rollout import ReleaseRef, Rollout

NODES = [NodeFacts(f"n{number}", {"ring": "ab"[number % 2]}, heard=True, serving=False) for number in range(4)]
RELEASE = ReleaseRef("1.2.0", sha256(b"1.2.0"))
WAYS_OUT = "wait for its end, or `fleetcast rollout halt delay` first"


def half_way(**labels: str) -> Rollout:
    wish = Start(version="1.2.0", stages=(50, 100), labels=labels)
    return begin("delay", wish, RELEASE, before=None, nodes=NODES, salts=[bytes(16)], now=0).rollout


def said(before: Rollout, version: str, *stages: int, **labels: str) -> str:
    (found,) = objections("delay", Start(version=version, stages=stages or (100,), labels=labels), before=before, nodes=NODES)
    return found


@pytest.mark.parametrize("version", ["1.3.0", "1.2.0"])
@pytest.mark.parametrize("labels", [{}, {"ring": "a"}])
def test_a_start_to_all_at_once_is_not_said_to_leave_nodes_behind(version: str, labels: dict[str, str]) -> None:
    sentence = said(half_way(**labels), version)

    assert "would stay" not in sentence
    assert "at 50 % of its nodes; all of its nodes would take" in sentence
    assert "past its remaining stages and their gates" in sentence
    assert sentence.endswith(WAYS_OUT)


def test_a_start_to_some_says_which_nodes_would_not_stay_behind() -> None:
    some, few = said(half_way(), "1.3.0", ring="a"), said(half_way(), "1.3.0", 10, 100)

    assert "would stay on those except for nodes with label ring=a" in some
    assert "would stay on those except for the nodes of this rollout's first stage" in few
    assert some.endswith(WAYS_OUT)
    assert few.endswith(WAYS_OUT)
