"""Push tests through, one after the other, and count what became of them."""

import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import structlog

from bench.figures import Figure
from tests.corpus.cases import Case, Reference, collect, reference
from tests.corpus.forked import workers
from tests.corpus.path import Outcome, opened
from tests.corpus.reasons import REASONS, reason_of

COMMAND = "make test-corpus"
Result = tuple[Case, Reference, Outcome]


def results(cases: Sequence[Case], *, every: int = 0) -> list[Result]:
    """Push these tests through one hub's store and one node; `every` so many of them, say how many were done."""
    found = list[Result]()
    with tempfile.TemporaryDirectory(prefix="fleetcast-corpus-") as folder, workers(), opened(Path(folder)) as way:
        for case in cases:
            known = reference(case)
            found.append((case, known, way.push(case, known)))
            if every and len(found) % every == 0:
                print(f"{len(found)} of {len(cases)}", file=sys.stderr, flush=True)
    return found


def share(number: int, processes: int, *, every: int) -> list[Result]:
    """Push a share of all tests: those whose place, divided by the number of processes, leaves this number."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(40))
    return results(collect()[number::processes], every=every)


def faults(found: Sequence[Result]) -> list[str]:
    """Return what is wrong: an answer that differs, or a refusal that is of no known kind."""
    wrong = [f"{case.name}: {outcome.wrong}" for case, _, outcome in found if outcome.wrong]
    unknown = [
        f"{case.name}: {refusal.step}: {refusal.code}: {refusal.reason}"
        for case, known, outcome in found
        for refusal in outcome.refusals
        if reason_of(case, known, refusal) is None
    ]
    return wrong + unknown


def counts(found: Sequence[Result]) -> tuple[Counter[str], dict[str, set[str]]]:
    """Return how many tests were refused for each reason, and with which codes."""
    number, codes = Counter[str](), defaultdict[str, set[str]](set)
    for case, known, outcome in found:
        for refusal in outcome.refusals:
            if reason := reason_of(case, known, refusal):
                number[reason.name] += 1
                codes[reason.name].add(refusal.code)
    return number, codes


def figures(found: Sequence[Result]) -> list[Figure]:
    """Return what pages quote."""
    runs = [(outcome, known) for _, known, outcome in found if known.outputs is not None]
    number, codes = counts(found)

    def figure(name: str, value: float, unit: str, goal: str = "", beside: str = "") -> Figure:
        return Figure(name, value, unit, goal, beside, None, COMMAND)

    rows = [
        figure("publish.models_tried", len(found), "models", ">= 1500", "all backend tests of operators in the onnx package"),
        figure("corpus.runtime_runs", len(runs), "tests", "", "those that ONNX Runtime runs when it is called directly"),
        figure("corpus.served_equal", sum(one.served and not one.near for one, _ in runs), "tests", "", "bits equal to ONNX Runtime's own"),
        figure(
            "corpus.served_near", sum(one.served and one.near for one, _ in runs), "tests", "", "equal within ONNX Runtime's own difference"
        ),
        figure("corpus.refused_with_reason", sum(not one.served and not one.wrong for one, _ in runs), "tests", "", "of those it runs"),
        figure("corpus.wrong", len(faults(found)), "tests", "0", "answers that differ, refusals of no kind in the table"),
    ]
    sentences = {one.name: one.sentence for one in reversed(REASONS)}
    for name, sentence in sentences.items():
        said = ", ".join(sorted(code for code in codes[name] if "." in code))
        rows.append(figure(f"corpus.refused.{name}", number[name], "tests", said, sentence))
    return rows
