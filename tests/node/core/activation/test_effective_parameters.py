"""Where each of a release's parameters goes, and how much of a text has to agree."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from node.core.activation.effective_parameters import EffectiveParameters, effective_parameters
from node.core.activation.golden import leading_words
from node.core.inference.tensors import Spec, array_of
from schemas.parameters import Parameter, Setting

words = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6)


def test_values_are_sorted_by_where_they_go() -> None:
    parameters = (
        Parameter(name="threshold", goes_to="input", default=0.5, min=0.0, max=1.0),
        Parameter(name="temperature", goes_to="runtime", default=0.0, min=0.0, max=2.0),
        Parameter(name="label", goes_to="client", default="cat"),
        Parameter(name="share", goes_to="telemetry", default=1.0, min=0.0, max=1.0),
    )
    said = {"threshold": 0.7, "temperature": 1.0, "label": "dog", "share": 0.25}
    settings = [Setting(name=name, value=value, source="rollout") for name, value in said.items()]
    found = effective_parameters(parameters, settings, [Spec("X", "FP32", (-1, 3)), Spec("threshold", "FP32", (-1, 2))])

    assert (found.runtime, found.client, found.telemetry_share) == ({"temperature": 1.0}, {"label": "dog"}, 0.25)
    assert list(found.inputs) == ["threshold"]
    np.testing.assert_array_equal(np.full((1, 2), 0.7, np.float32), array_of(found.inputs["threshold"]))


def test_nothing_set_is_nothing_fed_and_every_request_counted() -> None:
    assert effective_parameters((), [], [Spec("X", "FP32", (-1, 3))]) == EffectiveParameters()


@given(words, words)
def test_a_text_agrees_as_far_as_it_begins_the_same(want: list[str], have: list[str]) -> None:
    share = leading_words(" ".join(want), " ".join(have))

    assert 0 <= share <= 1
    assert (share == 1) == (have[: len(want)] == want)
    assert (share == 0) == (want[0] != have[0])


def test_nothing_expected_agrees_with_nothing_only() -> None:
    assert leading_words("", "") == 1.0
    assert leading_words("", "x") == 0.0
