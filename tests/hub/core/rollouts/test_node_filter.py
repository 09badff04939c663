"""Nodes chosen by a selector in which `state` names a class."""

import pytest

from hub.core.rollouts.node_filter import chosen, nobody
from schemas.errors import Code, Refused
from schemas.selectors import NodeFacts

LINES = [
    (NodeFacts("jfk-1", {"site": "jfk"}), "serving"),
    (NodeFacts("jfk-2", {"site": "jfk"}), "waiting"),
    (NodeFacts("lga-1", {"site": "lga", "gpu": "1"}), "refused"),
]


def names(where: str) -> list[str]:
    return [facts.node for facts, _ in chosen(LINES, where, facts=lambda line: line[0], state=lambda line: line[1])]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("", ["jfk-1", "jfk-2", "lga-1"]),
        ("state=waiting", ["jfk-2"]),
        ("state in (waiting,refused)", ["jfk-2", "lga-1"]),
        ("state!=serving,site=jfk", ["jfk-2"]),
        ("gpu,state=serving", []),
        ("node=lga-1", ["lga-1"]),
        ("site=paris", []),
    ],
)
def test_a_selector_chooses_by_labels_and_class(where: str, expected: list[str]) -> None:
    assert names(where) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("state=wating", "there is no class wating; classes are serving, moving, waiting"),
        ("state=wating", "Did you mean waiting?"),
        ("siet=jfk", "No node has a label siet. Did you mean site?"),
        ("siet!=jfk", "No node has a label siet."),
        ("site=", "is no requirement"),
    ],
)
def test_unknown_classes_and_labels_are_refused_with_the_nearest(where: str, expected: str) -> None:
    with pytest.raises(Refused) as refusal:
        names(where)
    assert refusal.value.code == Code.SELECTOR_INVALID
    assert expected in refusal.value.reason


def test_a_selector_that_matches_nobody_names_what_is_near() -> None:
    facts = [one for one, _ in LINES]
    assert nobody("site=jkf", facts) == "No node matches site=jkf. 2 match site=jfk."
    assert nobody("site=jfk,state=expired", facts) == "No node matches site=jfk,state=expired."
