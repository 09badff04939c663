"""Decide which counts of right and wrong answers are taken, of which release and interval, and when those leave. Knows no label, disk or
clock.

A site that learns later what was right says how many answers of a moment were right and how many wrong. They are summed by the interval of
the moment when the model answered, not by that of the label. An interval leaves once, as every window does: so long after its first count
as the site says, and never before it is over. When it leaves depends on no count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from schemas.accuracy import Accuracy
from schemas.document import Fact
from schemas.errors import Code, Refused, mismatch
from schemas.limits import KIB, WINDOW_ROWS_MAX
from schemas.patterns import wrong_text

BODY_BYTES_MAX = 4 * KIB  # four short fields
ID_CHARACTERS_MAX = 128
FUTURE_SECONDS = 60  # by which the clock of a program elsewhere at the site may be ahead
KEPT_SECONDS = 400 * 24 * 3600  # how long it is remembered what answered when: as long as which windows were closed


def moment(given: Any) -> int:
    """Return seconds since 1970 of a number, or of an ISO 8601 time with its zone.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, str):
        found = datetime.fromisoformat(given)
        if found.tzinfo is None:
            raise ValueError("a time says its zone, such as 2026-03-02T12:00:00Z")
        given = found.timestamp()
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 2**40:  # nor NaN
        raise ValueError("expected seconds since 1970, or a time such as 2026-03-02T12:00:00Z")
    return int(given)


Answers = Annotated[int, Field(ge=0, le=WINDOW_ROWS_MAX)]


class LabelCounts(Fact):
    """Describe what a site says: of the answers that the model gave at about that moment, so many are known to be right, and so many
    wrong.
    """

    at: Annotated[int, BeforeValidator(moment)]  # when the model answered
    right: Answers
    wrong: Answers
    id: Annotated[str, Field(min_length=1, max_length=ID_CHARACTERS_MAX)] | None = None  # sent again after a lost answer, it counts once

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.right + self.wrong:
            raise ValueError("neither right nor wrong answers")
        return self


def parse(body: bytes) -> LabelCounts:
    """Return what stands in a request's body.

    Raises:
        Refused: SCHEMA_TOO_LARGE or REQUEST_INVALID.
    """
    if len(body) > BODY_BYTES_MAX:
        raise mismatch(Code.SCHEMA_TOO_LARGE, "body bytes", expected=f"at most {BODY_BYTES_MAX}", actual=len(body))
    try:
        return LabelCounts.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> Refused:
    """Return the first mistake, as a sentence."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "labels"
    wrong = wrong_text(first) or f"{first['msg']}, found {str(first['input'])[:64]!r}"
    return Refused(Code.REQUEST_INVALID, f"{where}: {wrong}")


@dataclass(frozen=True, slots=True)
class Declared:
    """Hold a release that was served here, and its reference of right and wrong answers."""

    model: str
    version: str
    release: bytes
    accuracy: Accuracy

    @property
    def seconds(self) -> int:
        """Return the length of an interval."""
        return self.accuracy.privacy.window_seconds

    def start_of(self, at: int) -> int:
        """Return when the interval begins that this moment is in."""
        return at // self.seconds * self.seconds


@dataclass(frozen=True, slots=True)
class Known:
    """Describe what is known of an interval: how many answers were given, counts of right and wrong ones, and when they leave.

    Where the node died then, there may have been more answers than it knows of: it is not `sure`.
    """

    start: int
    answered: int
    right: int = 0
    wrong: int = 0
    due: int | None = None
    closed: bool = False
    sure: bool = True


def chosen(declared: Sequence[Declared], answered: Sequence[Declared], *, model: str, version: str | None) -> Declared:
    """Return the release that counts are of: the one named; else the one that answered then, or if it is not known which, the newest.

    `declared` are the model's, the newest first; `answered` those of them that gave answers in the interval.

    Raises:
        Refused: LABELS_RELEASE: there is none, or several answered.
    """
    if version is not None:
        found = next((one for one in declared if one.version == version), None)
        if found is None:
            versions = ", ".join(one.version for one in declared) or "none"
            what = f"version of {model} that was served here and has a reference of right and wrong answers"
            raise mismatch(Code.LABELS_RELEASE, what, expected=f"one of {versions}" if declared else "one", actual=version[:64])
        return found
    if not declared:
        raise Refused(Code.LABELS_RELEASE, f"no release of {model[:64]!r} that has a reference of right and wrong answers was served here")
    if len(answered) > 1:
        raise Refused(Code.LABELS_RELEASE, f"{' and '.join(one.version for one in answered)} of {model} answered then: say which")
    return answered[0] if answered else declared[0]


def check(counts: LabelCounts, declared: Declared, known: Known, *, now: int) -> None:
    """Check whether counts can be, and can still be taken.

    Raises:
        Refused: LABELS_FUTURE, LABELS_OLD, LABELS_CLOSED or LABELS_EXCESS.
    """
    if counts.at > now + FUTURE_SECONDS:
        raise mismatch(Code.LABELS_FUTURE, "time of the answers", expected=f"at most {_iso(now)}", actual=_iso(counts.at))
    if known.start + declared.seconds <= now - KEPT_SECONDS:
        raise mismatch(Code.LABELS_OLD, "time of the answers", expected=f"after {_iso(now - KEPT_SECONDS)}", actual=_iso(counts.at))
    name = f"{declared.model} {declared.version}, {_iso(known.start)} and {declared.seconds} s on"
    if known.closed:
        raise Refused(Code.LABELS_CLOSED, f"{name}: right and wrong answers have left already, and an interval leaves once")
    total = known.right + known.wrong + counts.right + counts.wrong
    most = known.answered if known.sure else WINDOW_ROWS_MAX
    if total > most:
        raise mismatch(Code.LABELS_EXCESS, f"{name}: right and wrong answers", expected=f"at most {most} that were given", actual=total)


def due(known: Known, declared: Declared, *, now: int, wait_seconds: float) -> int:
    """Return when the interval leaves."""
    return known.due if known.due is not None else max(known.start + declared.seconds, now + math.ceil(wait_seconds))


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds < 2**37 else str(seconds)
