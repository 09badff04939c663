"""Hold what is wrong with this node now: documents that it refused, and its site's own files. A finding stays until its cause is gone."""

from collections.abc import Collection, Sequence
from itertools import zip_longest

from schemas.errors import Refused
from schemas.limits import FINDING_TEXT_MAX, NODE_FINDINGS_MAX
from schemas.names import is_name
from schemas.state import Finding, FindingKind


class StandingFindings:
    """Hold findings by kind and subject; the subject is a model's name, or what else tells two findings of a kind apart."""

    def __init__(self) -> None:
        self._found: dict[tuple[FindingKind, str], tuple[Finding, ...]] = {}
        self.changed = False  # Since the node last reported its state.

    def put(self, kind: FindingKind, subject: str, refusals: Sequence[Refused], *, versions: Sequence[str] = ()) -> None:
        """Replace what is wrong with a subject; nothing is, without refusals. `versions`: of the releases that were refused."""
        model = subject if kind != "site" and is_name(subject) else None
        found = tuple(
            Finding(kind=kind, model=model, version=version, code=str(one.code), reason=one.reason[:FINDING_TEXT_MAX])
            for one, version in zip_longest(refusals, [version[:64] for version in versions])
        )
        if found == self._found.get((kind, subject), ()):
            return
        self.changed = True
        if found:
            self._found[kind, subject] = found
        else:
            del self._found[kind, subject]

    def keep_only(self, kind: FindingKind, subjects: Collection[str]) -> None:
        """Forget a kind's findings about other subjects: they are there no more."""
        for known, subject in list(self._found):
            if known == kind and subject not in subjects:
                self.put(kind, subject, ())

    def all(self) -> tuple[Finding, ...]:
        """Return the findings, as many as a state may carry: documents first."""
        listed = [one for key in sorted(self._found, key=lambda key: (key[0] == "site", key)) for one in self._found[key]]
        return tuple(listed[:NODE_FINDINGS_MAX])
