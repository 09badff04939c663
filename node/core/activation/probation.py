"""Decide from counts whether a release that answers real requests, alone or beside another, may stay: sees no request and no answer."""

from typing import Final, Literal, NamedTuple

from node.core.activation.shadow_comparison import Agreement
from schemas.errors import Code
from schemas.manifest import Limits, Shadow

REQUESTS_MIN: Final = 20  # fewer say nothing about a ratio of errors or a median
TURNED_AWAY_MIN: Final = 3  # a request whose form fits only the release before is refused each time: no chance is in it


class Verdict(NamedTuple):
    """Hold a verdict. `waits`: nothing is known yet; `good`: it stays; `bad`: it goes, for this reason.

    The reason leaves this device, in a receipt that names it, and so it holds no count of what was asked here. `counted` stays.
    """

    found: Literal["waits", "good", "bad"]
    code: str = ""
    reason: str = ""
    counted: str = ""


WAITS: Final = Verdict("waits")


def on_shadow(limits: Limits, agreement: Agreement, *, seconds: float) -> Verdict:
    """Judge a release that is compared with what is served: bad as soon as enough was compared, good when its time is over."""
    terms = limits.shadow
    if terms is None:
        return Verdict("good")
    if (bad := _disagrees(terms, agreement)) is not None:
        return bad
    return Verdict("good") if seconds >= terms.seconds else WAITS


def on_probation(
    limits: Limits, *, requests: int, errors: int, latency_ms: float, agreement: Agreement, seconds: float, turned_away: int = 0
) -> Verdict:
    """Judge a release that is served: `latency_ms` is the median of its answers; `agreement` is with what was served before.

    `turned_away` are requests beside `requests` that it has refused, and the release before would have taken.
    """
    asked, failed = requests + turned_away, errors + turned_away
    if failed > limits.probation_error_ratio_max * asked:
        refused = f", {turned_away} of them refused that the release before would have taken" if turned_away else ""
        counted = f"{failed} of {asked} requests failed{refused}"
        if turned_away >= TURNED_AWAY_MIN:
            what = "requests that the release before would have taken are refused"
            return _bad(Code.PROBATION_ERRORS, f"{what}; of all, no more than {limits.probation_error_ratio_max:.0%} may fail", counted)
        if asked >= REQUESTS_MIN:
            reason = f"more requests failed than the {limits.probation_error_ratio_max:.0%} that may"
            return _bad(Code.PROBATION_ERRORS, reason, counted)
    if requests >= REQUESTS_MIN and latency_ms > limits.latency_ms_max:
        reason = f"half of the requests took longer than the {limits.latency_ms_max:g} ms that are allowed"
        return _bad(Code.PROBATION_LATENCY, reason, f"half of {requests} requests took {latency_ms:.3g} ms or more")
    if limits.shadow is not None and (bad := _disagrees(limits.shadow, agreement)) is not None:
        return bad
    return Verdict("good") if seconds >= limits.probation_seconds else WAITS


def _disagrees(terms: Shadow, agreement: Agreement) -> Verdict | None:
    if agreement.rows < terms.rows_min or agreement.ratio >= terms.agreement_min:
        return None
    reason = f"the releases agree on fewer rows than the {terms.agreement_min:.0%} that they must"
    return _bad(Code.SHADOW_DISAGREES, reason, f"they agree on {agreement.agreed} of {agreement.rows} rows")


def _bad(code: Code, reason: str, counted: str) -> Verdict:
    return Verdict("bad", code, reason, counted)
