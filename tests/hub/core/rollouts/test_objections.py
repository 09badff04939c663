"""What the refusal of a start says of the rollout that it would end, and of a selector that matches nobody."""

import pytest

from hub.core.rollouts.commands import Start
from hub.core.rollouts.deployments import Model, begun, objections, place_of
from hub.core.rollouts.rollout import Progress
from schemas.errors import Refused
from schemas.names import sha256
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts

NODES = [NodeFacts(f"n{number}", {"ring": "ab"[number % 2], "site": "jfk"}, "x86_64") for number in range(4)]
RELEASE = ReleaseRef("1.2.0", sha256(b"1.2.0"))
WAYS_OUT = "wait for its end, or `fleetcast rollout halt delay{of}` first; --supersede begins it all the same"


def half_way(**labels: str) -> Progress:
    wish = Start(version="1.2.0", stages=(50, 100), labels=labels)
    return begun(Model("delay"), wish, RELEASE, nodes=NODES, rollout=bytes(16), now=0)


def said(before: Progress, version: str, *stages: int, **labels: str) -> str:
    model, wish = Model("delay").with_rollout(before), Start(version=version, stages=stages or (100,), labels=labels)
    (found,) = objections(model, wish, place_of(model, wish, NODES), NODES)
    return found


@pytest.mark.parametrize("version", ["1.3.0", "1.2.0"])
@pytest.mark.parametrize(("labels", "of"), [({}, ""), ({"ring": "a"}, " --deployment ring-a")])
def test_a_start_to_all_at_once_is_not_said_to_leave_nodes_behind(version: str, labels: dict[str, str], of: str) -> None:
    sentence = said(half_way(**labels), version, **labels)

    assert "would stay" not in sentence
    assert "at 50 % of its nodes; all of its nodes would take" in sentence
    assert "past its remaining stages and their gates" in sentence
    assert sentence.endswith(WAYS_OUT.format(of=of))


def test_a_start_to_some_says_which_nodes_would_not_stay_behind() -> None:
    few = said(half_way(), "1.3.0", 10, 100)

    assert "would stay on those except for the nodes of this rollout's first stage" in few
    assert few.endswith(WAYS_OUT.format(of=""))


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("site=jkf", "none of the 4 known nodes matches site=jkf. 4 match site=jfk. "),
        ("siet=jfk", "No node has a label siet. Did you mean site? "),
        ("zone=a", "No node has a label zone; there are ring, site. "),
        ("arch=x86-64", "4 match arch=x86_64. "),
        ("node=m1", "1 matches node=n1. "),
        ("ring=a,ring=b", "`fleetcast nodes --json` lists"),
    ],
)
def test_a_selector_that_matches_nobody_names_what_is_near(where: str, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        begun(Model("delay"), Start(version="1.2.0", where=where, labels={}), RELEASE, nodes=NODES, rollout=bytes(16), now=0)

    assert words in refusal.value.reason
    assert refusal.value.reason.endswith("--allow-empty sets it all the same")
