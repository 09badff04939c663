"""Verdicts rest on enough requests, name both sides, and never come from nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.activation.probation import REQUESTS_MIN, on_probation, on_shadow
from node.core.activation.shadow_comparison import Agreement
from schemas.errors import Code
from schemas.manifest import Limits, Shadow

LIMITS = Limits(latency_ms_max=50, probation_seconds=60, probation_error_ratio_max=0.1, shadow=Shadow(seconds=30, rows_min=100))
CLEAN = {"requests": 1000, "errors": 0, "latency_ms": 5.0, "agreement": Agreement(), "seconds": 10}


@pytest.mark.parametrize(
    ("changes", "found", "code"),
    [
        ({}, "waits", ""),
        ({"seconds": 60}, "good", ""),
        ({"errors": 100}, "waits", ""),
        ({"errors": 101}, "bad", Code.PROBATION_ERRORS),
        ({"requests": REQUESTS_MIN - 1, "errors": REQUESTS_MIN - 1}, "waits", ""),
        ({"requests": 0, "turned_away": 2}, "waits", ""),
        ({"requests": 0, "turned_away": 3}, "bad", Code.PROBATION_ERRORS),  # its form is wrong each time: three are not chance
        ({"turned_away": 111}, "waits", ""),  # a tenth of all may fail
        ({"turned_away": 112}, "bad", Code.PROBATION_ERRORS),
        ({"errors": 60, "turned_away": 60}, "bad", Code.PROBATION_ERRORS),
        ({"latency_ms": 50.0}, "waits", ""),
        ({"latency_ms": 50.1}, "bad", Code.PROBATION_LATENCY),
        ({"latency_ms": 50.1, "requests": REQUESTS_MIN - 1}, "waits", ""),
        ({"agreement": Agreement(99, 0)}, "waits", ""),
        ({"agreement": Agreement(100, 89)}, "bad", Code.SHADOW_DISAGREES),
        ({"agreement": Agreement(100, 90), "seconds": 60}, "good", ""),
        ({"agreement": Agreement(100, 89), "seconds": 60}, "bad", Code.SHADOW_DISAGREES),
        ({"requests": 0, "seconds": 60}, "good", ""),  # nobody asked: nothing is against it
    ],
)
def test_probation(changes: dict[str, object], found: str, code: str) -> None:
    verdict = on_probation(LIMITS, **{**CLEAN, **changes})  # type: ignore[arg-type]

    assert (verdict.found, verdict.code) == (found, code)
    assert bool(verdict.reason) == (found == "bad")


@pytest.mark.parametrize(
    ("agreement", "seconds", "found"),
    [
        (Agreement(), 29, "waits"),
        (Agreement(), 30, "good"),
        (Agreement(99, 0), 30, "good"),  # too little was asked to say otherwise
        (Agreement(100, 89), 1, "bad"),
        (Agreement(100, 100), 1, "waits"),
    ],
)
def test_shadow(agreement: Agreement, seconds: float, found: str) -> None:
    assert on_shadow(LIMITS, agreement, seconds=seconds).found == found


def test_a_release_that_asks_for_no_comparison_needs_none() -> None:
    assert on_shadow(Limits(), Agreement(), seconds=0).found == "good"


@pytest.mark.parametrize(
    ("found", "reason", "counted"),
    [
        ({"errors": 317}, "more requests failed than the 10% that may", "317 of 1000 requests failed"),
        (
            {"errors": 17, "turned_away": 300},
            "requests that the release before would have taken are refused; of all, no more than 10% may fail",
            "317 of 1300 requests failed, 300 of them refused that the release before would have taken",
        ),
        (
            {"latency_ms": 73.1},
            "half of the requests took longer than the 50 ms that are allowed",
            "half of 1000 requests took 73.1 ms or more",
        ),
        (
            {"agreement": Agreement(733, 311)},
            "the releases agree on fewer rows than the 90% that they must",
            "they agree on 311 of 733 rows",
        ),
    ],
)
def test_a_reason_names_what_was_allowed_and_the_counts_stay_beside_it(found: dict[str, object], reason: str, counted: str) -> None:
    verdict = on_probation(LIMITS, **{**CLEAN, **found})  # type: ignore[arg-type]

    assert (verdict.reason, verdict.counted) == (reason, counted)


@given(requests=st.integers(0, 10**6), errors=st.integers(0, 10**6), latency_ms=st.floats(0, 1e6), seconds=st.floats(0, 1e6))
def test_a_bad_verdict_always_has_a_code_and_fewer_errors_are_never_worse(
    requests: int, errors: int, latency_ms: float, seconds: float
) -> None:
    errors = min(errors, requests)
    said = {"requests": requests, "latency_ms": latency_ms, "agreement": Agreement(), "seconds": seconds}

    verdict, kinder = on_probation(LIMITS, errors=errors, **said), on_probation(LIMITS, errors=errors // 2, **said)  # type: ignore[arg-type]

    assert (verdict.found == "bad") == bool(verdict.code)
    assert kinder.found != "bad" or verdict.found == "bad"
