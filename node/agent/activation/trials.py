"""Keep the trials of a node's slots on disk, in small steps: a restart goes on where it was, less at most a step."""

from dataclasses import dataclass, field

from node.core.activation.lifecycle import ModelSlot, Move
from node.core.activation.shadow_comparison import Agreement
from node.core.activation.trial import Trial
from node.storage.store import NodeStore

# A comparison goes on over these. Every other move ends it, or gives it another pair of releases.
RUNNING = "running"  # The fact that a process has begun, and has not left.
CUTS_MAX = 3  # Abrupt ends in one probation: one or two are as likely the site's power as the release.
CUT_SHORT = f"the device, or the agent on it, ended abruptly {CUTS_MAX} times while the release was on probation"
GOES_ON = frozenset({"begun", "compared", "interrupted", "settled"})


@dataclass(slots=True)
class Comparison(Trial):
    """Measure a trial beside what is served. What the process before this one had counted is added to what this one counts."""

    before: Agreement = field(default_factory=Agreement)


class Trials:
    """Track probations and comparisons by model."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._probations: dict[str, Trial] = {}
        self._comparisons: dict[str, Comparison] = {}

    def probation(self, model: str) -> Trial:
        """Return how long what is served has served."""
        if model not in self._probations:
            seconds = self._kept(model, "probation_ms") / 1000
            self._probations[model] = Trial(seconds, seconds)
        return self._probations[model]

    def comparison(self, model: str) -> Comparison:
        """Return how long, and with what outcome, what is wanted was compared with what is served."""
        if model not in self._comparisons:
            seconds = self._kept(model, "compared_ms") / 1000
            before = Agreement(self._kept(model, "compared_rows"), self._kept(model, "compared_agreed"))
            self._comparisons[model] = Comparison(seconds, seconds, before=before)
        return self._comparisons[model]

    def moved(self, before: ModelSlot, after: ModelSlot, move: Move) -> None:
        """Take in that a slot moves: what it serves, or compares, may be another release. To be called within the transaction of the
        move.
        """
        if (before.serving and before.serving.digest) != (after.serving and after.serving.digest):
            self._probations.pop(after.model, None)
            self._keep(after.model, probation_ms=0, probation_cuts=0)
        if move.event not in GOES_ON:
            self._comparisons.pop(after.model, None)
            self._keep(after.model, compared_ms=0, compared_rows=0, compared_agreed=0)

    def removed(self, model: str) -> None:
        """Take in that a model is not on this device any more. To be called within the transaction that drops its slot."""
        self._probations.pop(model, None)
        self._comparisons.pop(model, None)
        self._keep(model, probation_ms=0, probation_cuts=0, compared_ms=0, compared_rows=0, compared_agreed=0)

    def began(self) -> bool:
        """Note that a process has begun, and return whether the one before it ended without leaving."""
        was_cut = self._store.fact(RUNNING) == 1
        self._store.set_fact(RUNNING, 1)
        return was_cut

    def left(self) -> None:
        """Note that this process ends as it should."""
        self._store.set_fact(RUNNING, 0)

    def is_cut_too_often(self, slot: ModelSlot) -> bool:
        """Count an abrupt end as a mark against what is on probation, and return whether that makes too many.

        Where there is no release to go back to, nothing is counted: a node that serves does not come to serve nothing.
        """
        if slot.serving is None or slot.proven or slot.last_good is None:
            return False
        cuts = self._kept(slot.model, "probation_cuts") + 1
        self._keep(slot.model, probation_cuts=cuts)
        return cuts >= CUTS_MAX

    def keep_probation(self, model: str, *, terms_seconds: float) -> None:
        """Write down how far it is, where that is due."""
        trial = self.probation(model)
        if trial.is_due(terms_seconds=terms_seconds):
            self._keep(model, probation_ms=int(trial.seconds * 1000))
            trial.kept_seconds = trial.seconds

    def keep_comparison(self, model: str, agreement: Agreement, *, terms_seconds: float) -> None:
        """Write down how far it is, with the counts, which never leave this device."""
        trial = self.comparison(model)
        if trial.is_due(terms_seconds=terms_seconds):
            with self._store.transaction():
                self._keep(model, compared_ms=int(trial.seconds * 1000), compared_rows=agreement.rows, compared_agreed=agreement.agreed)
            trial.kept_seconds = trial.seconds

    def _kept(self, model: str, what: str) -> int:
        return self._store.fact(f"{what}:{model}")

    def _keep(self, model: str, **facts: int) -> None:
        for what, value in facts.items():
            if self._kept(model, what) != value:
                self._store.set_fact(f"{what}:{model}", value)
