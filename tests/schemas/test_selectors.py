"""Selectors: one form for one selector, Kubernetes' meaning, and a refusal that shows where and what is right."""

import pytest

from schemas.errors import Code, Refused
from schemas.limits import SELECTOR_CHARACTERS_MAX, SELECTOR_TERMS_MAX, SELECTOR_VALUES_MAX
from schemas.selectors import NodeFacts, as_labels, from_labels, matches, may_overlap, parse, text_of

JFK = NodeFacts("jfk-2", {"site": "jfk", "tier": "prod", "gpu": "yes"}, arch="aarch64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("site=jfk", True),
        ("site==jfk", True),
        ("site!=jfk", False),
        ("zone!=a", True),  # as in Kubernetes: a node without the label is not in that zone
        ("site in (lga, jfk)", True),
        ("site notin (lga,jfk)", False),
        ("zone notin (a,b)", True),
        ("gpu", True),
        ("!gpu", False),
        ("!zone", True),
        ("zone", False),
        ("arch in (aarch64,x86_64)", True),
        ("arch=x86_64", False),
        ("node in (jfk-2,jfk-3)", True),
        ("node=jfk-3", False),
        ("site=jfk,tier!=lab , gpu", True),
        ("site=jfk,tier=lab", False),
    ],
)
def test_a_selector_means_what_it_means_in_kubernetes(text: str, *, expected: bool) -> None:
    assert matches(parse(text), JFK) is expected
    assert parse(text_of(parse(text))) == parse(text)


def test_a_label_named_node_does_not_pass_for_the_devices_name() -> None:
    assert not matches(parse("node=jfk-3"), NodeFacts("jfk-2", {"node": "jfk-3"}))


def test_one_selector_has_one_form_whatever_the_order() -> None:
    assert parse("b=2,a in (z,y)") == parse("a in (y,z), b = 2")


@pytest.mark.parametrize(
    "text", ["site=", "site=a=b", "a b", "in (a)", "site in ()", "a,,b", ",", "a,", "x in (a", "a!b", "(", "ä=b", "a=b c", "site in (a b)"]
)
def test_a_wrong_selector_is_refused_and_shown_a_right_one(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text)
    assert refused.value.code is Code.SELECTOR_INVALID


@pytest.mark.parametrize(
    "text",
    [
        "a" * (SELECTOR_CHARACTERS_MAX + 1),
        ",".join(f"k{number}" for number in range(SELECTOR_TERMS_MAX + 1)),
        f"node in ({','.join(f'n{number}' for number in range(SELECTOR_VALUES_MAX + 1))})",
        f"node in ({','.join(f'node-{number}' for number in range(10_000))})",
    ],
)
def test_an_absurdly_long_selector_is_refused_with_the_mend(text: str) -> None:
    with pytest.raises(Refused, match="give its nodes a label"):
        parse(text)


def test_labels_and_the_selector_that_requires_them_are_one() -> None:
    assert as_labels(from_labels({"site": "jfk", "ring": "canary"})) == {"site": "jfk", "ring": "canary"}
    assert as_labels(parse("site!=jfk")) is None
    assert as_labels(parse("node=jfk-2")) is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("site=a", "site=b", False),
        ("site=a", "ring=b", True),
        ("site in (a,b)", "site in (b,c)", True),
        ("site=a", "site!=a", False),
        ("site=a", "!site", False),
        ("site", "!site", False),
        ("", "site=a", True),
        ("!gpu", "gpu!=a", True),
    ],
)
def test_selectors_overlap_unless_they_contradict_each_other(one: str, other: str, *, expected: bool) -> None:
    assert may_overlap(parse(one), parse(other)) is expected
