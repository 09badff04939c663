import pytest

from tests.corpus.cases import collect, tenth
from tests.corpus.counted import counts, faults, figures, results

OPERATORS_MIN = 150  # of about 200: the tenth has one test of as many operators as it has tests
SERVED_MIN = 0.85  # so that a change that refuses models by the dozen shows, although each refusal has a reason


@pytest.mark.heavy
def test_a_tenth_of_the_onnx_corpus_is_served_equal_or_refused_with_a_reason() -> None:
    cases = tenth(collect())
    found = results(cases)
    assert faults(found) == []
    by_name = {figure.name: figure.value for figure in figures(found)}
    assert by_name["corpus.served_equal"] + by_name["corpus.served_near"] > SERVED_MIN * by_name["corpus.runtime_runs"]
    assert len({case.operator for case in cases}) > OPERATORS_MIN
    assert sum(counts(found)[0].values()) >= by_name["corpus.refused_with_reason"]
