"""What operators set by rollout stays within what the publisher allows, and says both sides where it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.rollouts.parameters import in_words, read, settled
from schemas.errors import Code, Refused
from schemas.parameters import Parameter, settings

THRESHOLD = Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0)
MODE = Parameter(name="mode", goes_to="client", default="calm", choices=("calm", "keen"))
LABELS = Parameter(name="labels", goes_to="client", default={"cat": "cat", "dog": "dog"})
DOTTED = Parameter(name="labels.cat", goes_to="client", default=1.0, min=0.0, max=9.0)
ALL = (THRESHOLD, MODE, LABELS)


def test_values_are_read_as_people_write_them() -> None:
    said = read(ALL, [("threshold", "0.7"), ("mode", "keen"), ("labels.cat", "Katze"), ("labels.dog", "Hund=1")])

    assert said == {"threshold": 0.7, "mode": "keen", "labels": {"cat": "Katze", "dog": "Hund=1"}}


def test_a_parameter_with_a_dot_in_its_name_is_not_taken_for_an_entry_of_a_map() -> None:
    assert read((LABELS, DOTTED), [("labels.cat", "2"), ("labels.dog", "Hund")]) == {"labels.cat": 2.0, "labels": {"dog": "Hund"}}


@pytest.mark.parametrize(
    ("name", "text", "code", "words"),
    [
        ("threshold", "1.5", Code.PARAMETER_BOUNDS, "expected 0 to 1, found 1.5"),
        ("threshold", "nan", Code.PARAMETER_BOUNDS, "expected a number"),
        ("threshold", "high", Code.PARAMETER_BOUNDS, "expected a number, found 'high'"),
        ("mode", "wild", Code.PARAMETER_BOUNDS, "expected one of calm, keen, found wild"),
        ("labels", "Katze", Code.PARAMETER_BOUNDS, "expected labels.KEY, KEY one of cat, dog, found no key"),
        ("labels.cow", "Kuh", Code.PARAMETER_BOUNDS, "one of cat, dog, found cow"),
        ("treshold", "0.7", Code.PARAMETER_UNKNOWN, "expected threshold, mode, labels, found treshold"),
        ("threshold.x", "0.7", Code.PARAMETER_UNKNOWN, "found threshold.x"),
    ],
)
def test_what_the_release_does_not_allow_is_refused_with_both_sides(name: str, text: str, code: Code, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        read(ALL, [(name, text)])

    assert refusal.value.code == code
    assert words in refusal.value.reason


def test_a_release_without_parameters_knows_none() -> None:
    with pytest.raises(Refused, match="expected none, found threshold"):
        read((), [("threshold", "0.7")])


def test_what_is_not_said_stays_as_it_is_set_and_of_a_map_the_other_entries() -> None:
    first = settled(ALL, {}, {"threshold": 0.7, "labels": {"cat": "Katze"}})
    second = settled(ALL, first or {}, {"labels": {"dog": "Hund"}}, ["threshold"])

    assert first == {"threshold": 0.7, "labels": {"cat": "Katze", "dog": "dog"}}
    assert second == {"labels": {"cat": "Katze", "dog": "Hund"}}


def test_nothing_set_is_nothing() -> None:
    assert settled(ALL, {"threshold": 0.7}, {}, ["threshold"]) is None
    assert settled((), {}, {}) is None


@pytest.mark.parametrize(("said", "unset"), [({"treshold": 0.7}, []), ({}, ["treshold"])])
def test_an_unknown_name_is_refused_whether_it_is_set_or_unset(said: dict[str, float], unset: list[str]) -> None:
    with pytest.raises(Refused) as refusal:
        settled(ALL, {}, said, unset)

    assert refusal.value.code == Code.PARAMETER_UNKNOWN


@pytest.mark.parametrize("value", [2.0, "high", {"cat": "x"}])
def test_values_of_another_kind_or_out_of_bounds_are_refused_wherever_they_come_from(value: object) -> None:
    with pytest.raises(Refused) as refusal:
        settled(ALL, {}, {"threshold": value})  # type: ignore[dict-item]

    assert refusal.value.code == Code.PARAMETER_BOUNDS


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40)


@given(st.floats(0, 1), st.sampled_from(["calm", "keen"]), texts)
def test_what_was_accepted_is_in_force_on_every_node(threshold: float, mode: str, cat: str) -> None:
    rollout = settled(ALL, {}, read(ALL, [("threshold", repr(threshold)), ("mode", mode), ("labels.cat", cat)]))

    found = settings(ALL, rollout=rollout or {}, site={})

    assert [(one.value, one.source, one.code) for one in found] == [
        (threshold, "rollout", None),
        (mode, "rollout", None),
        ({"cat": cat, "dog": "dog"}, "rollout", None),
    ]


def test_a_value_is_told_as_it_is_said() -> None:
    assert in_words("threshold", 0.7) == "threshold=0.7"
    assert in_words("labels", {"cat": "Katze", "dog": "dog"}) == "labels.cat=Katze, labels.dog=dog"


def test_a_parameter_that_counts_tokens_is_whole() -> None:
    tokens = Parameter(name="max_tokens", goes_to="runtime", default=8, min=1, max=64)

    assert read((tokens,), [("max_tokens", "32")]) == {"max_tokens": 32}
    with pytest.raises(Refused, match=r"parameter 'max_tokens': expected a whole number, found 2\.7"):
        read((tokens,), [("max_tokens", "2.7")])
    (site,) = settings((tokens,), rollout={}, site={"max_tokens": 2.7})
    assert (site.value, site.code) == (8, "parameter.bounds")
    with pytest.raises(ValueError, match="expected a whole number"):
        Parameter(name="max_tokens", goes_to="runtime", default=2.7, min=1, max=64)
    Parameter(name="max_tokens", goes_to="client", default=2.7, min=1, max=64)  # A local program may count as it likes.
