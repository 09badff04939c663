"""Define the reference of right and wrong answers, and the noise of their counts, for sites that learn the truth later.

A label never leaves its site, and neither does an answer. What leaves is how many of an interval's answers were wrong and how many right,
under noise, in a window of its own. Its bins are wrong, right and, as for every signal, "other", which is always empty.
"""

from typing import Literal, Self

from pydantic import model_validator

from schemas.document import Fact
from schemas.signals import Baseline, Privacy

About = Literal["accuracy"]  # Subject of a window, a test or an alert that is not about the release's signals.
BINS = 3  # Wrong, right, other.


class Accuracy(Fact):
    """Describe what windows of right and wrong answers are compared with; their noise and interval length are separate."""

    baseline: Baseline
    privacy: Privacy

    @model_validator(mode="after")
    def _is_one_signal(self) -> Self:
        if len(self.baseline.signals) != 1 or self.baseline.bins != BINS or self.baseline.signals[0].kind != "numeric":
            raise ValueError("accuracy is one signal of wrong and right answers")
        if self.baseline.season is not None or self.baseline.calibration_rows is not None:
            raise ValueError("accuracy allows neither hours of the week nor a node's own baseline")
        return self
