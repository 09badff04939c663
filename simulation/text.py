"""Draw an outcome in 80 columns for a terminal, and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from textwrap import wrap
from typing import Any, Final

from fleetcast.cli.terminal_text import plain
from simulation.core.outcome import MEANINGS, Outcome, Reason

WIDTH: Final = 80
CHART_COLUMNS, CHART_ROWS = 70, 10
EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
DAY, HOUR, MINUTE = 86_400, 3600, 60
STEPS_SHOWN: Final = 12


def document(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as JSON has it."""
    found = asdict(outcome)
    for key in ("waited_hours",):
        found[key] = dict(outcome.waited_hours)
    found["groups"] = [{**asdict(one), "waited_hours": dict(one.waited_hours)} for one in outcome.groups]
    found["curve"] = [{"seconds": round(at, 1), "share": round(share, 6)} for at, share in outcome.curve]
    if outcome.agreement is not None:
        found["agreement"] = {
            "nodes": outcome.agreement.nodes,
            "worst": outcome.agreement.worst,
            "rows": [{"what": what, "cores": core, "model": model} for what, core, model in outcome.agreement.rows],
        }
    return found


def page(outcome: Outcome) -> Iterator[str]:
    """Return the lines that a terminal shows."""
    yield from _wrapped(_headline(outcome))
    yield ""
    yield from chart(outcome.curve)
    yield ""
    yield from _steps(outcome)
    yield ""
    yield from _table(
        ["group", "link", "nodes", "serve it", "half by", "last by", "then waits for"],
        [
            [
                one.group[:18],
                one.link[:14],
                str(one.nodes),
                str(one.serving),
                duration(one.median_seconds),
                duration(one.last_seconds),
                _most(one.waited_hours),
            ]
            for one in outcome.groups
        ],
    )
    yield ""
    priced = any(one.cost is not None for one in outcome.links)
    heads = ["link", "nodes", "payload bytes", "bytes on the wire", *(["cost"] if priced else [])]
    rows = [
        [one.link, str(one.nodes), size(one.bytes), size(one.wire_bytes), *([_cost(one.cost)] if priced else [])] for one in outcome.links
    ]
    total = [one.cost for one in outcome.links if one.cost is not None]
    sums = ["all", str(outcome.nodes), size(sum(one.bytes for one in outcome.links)), size(sum(one.wire_bytes for one in outcome.links))]
    yield from _table(heads, [*rows, [*sums, *([_cost(sum(total))] if priced else [])]])
    yield ""
    yield "Where nodes wait, in node-hours:"
    hours = sum(value for _, value in outcome.waited_hours) or 1.0
    for reason, value in sorted(outcome.waited_hours, key=lambda one: -one[1]):
        if value >= 0.05:
            yield f"  {reason:<10} {value:>14,.1f}  {value / hours:>5.1%}  {MEANINGS[reason]}"[:WIDTH]
    yield ""
    yield from _missing(outcome)
    yield from _wrapped(_footer(outcome))


def chart(curve: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Return the share of nodes that serve the release over time, as columns."""
    until = curve[-1][0]
    at = [curve[min(len(curve) - 1, round((column + 0.5) / CHART_COLUMNS * (len(curve) - 1)))][1] for column in range(CHART_COLUMNS)]
    for row in range(CHART_ROWS, 0, -1):
        label = f"{100 * row // CHART_ROWS:>4} %" if row % 5 == 0 else " " * 6
        cells = "".join(EIGHTHS[max(0, min(8, round((share * CHART_ROWS - row + 1) * 8)))] for share in at)
        yield f"{label} │{cells}".rstrip()
    yield f"   0 % └{'─' * CHART_COLUMNS}"
    middle, last = duration(until / 2), duration(until)
    yield f"        0{middle:^{CHART_COLUMNS - 2 - len(last)}}{last}"


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units; `never` for None."""
    if seconds is None:
        return "never"
    whole = round(seconds)
    if whole >= DAY:
        return f"{whole // DAY} d {whole % DAY // HOUR} h"
    if whole >= HOUR:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // MINUTE} min {whole % MINUTE} s" if whole >= MINUTE else f"{whole} s"


def size(size_bytes: int) -> str:
    """Return bytes in the unit in which they are below 1,000."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1000
    return f"{value:.2f} TB"


def headline_times(outcome: Outcome) -> list[str]:
    """Return when each share of the nodes serves the release: `50 % after 5 d 18 h`."""
    return [f"{one.percent} % {'after ' + duration(one.seconds) if one.seconds is not None else 'never'}" for one in outcome.milestones]


def _headline(outcome: Outcome) -> str:
    nodes = f"{outcome.nodes} node{'s' if outcome.nodes != 1 else ''}"
    ended = f"the hub ends it as {outcome.state} after {duration(outcome.ended_seconds)}"
    if outcome.ended_seconds is None:
        ended = f"after {duration(outcome.simulated_seconds)} it still runs: {outcome.reason}"
    elif outcome.state == "halted":
        ended = f"it halts after {duration(outcome.ended_seconds)}: {outcome.reason}"
    first, *others = headline_times(outcome)
    return f"{nodes}: {first.replace(' %', ' % serve the release', 1)}, {', '.join(others)}. The rollout: {ended}."


def _steps(outcome: Outcome) -> Iterator[str]:
    stages = [
        one for at, one in enumerate(outcome.steps) if at == 0 or one.percent != outcome.steps[at - 1].percent or "attempt" not in one.text
    ]
    attempts = len(outcome.steps) - len(stages)
    for one in stages[:STEPS_SHOWN]:
        text = plain(one.text).removeprefix("rollout of model 1.0.0 ")
        yield from _wrapped(f"{duration(one.seconds):>12}  {text}", indent=14)
    if len(stages) > STEPS_SHOWN:
        yield f"{'':>12}  and {len(stages) - STEPS_SHOWN} steps more: --json has all"
    if attempts:
        yield f"{'':>12}  {attempts} attempt{'s' if attempts > 1 else ''} of failed nodes began besides"


def _missing(outcome: Outcome) -> Iterator[str]:
    if not outcome.missing:
        yield "Every node arrives."
        return
    lost = sum(one.nodes for one in outcome.missing)
    yield f"{lost} node{'s' if lost != 1 else ''} never arrive{'' if lost != 1 else 's'}:"
    for one in sorted(outcome.missing, key=lambda one: (-one.nodes, one.group)):
        yield from _wrapped(f"  {one.nodes:>7}  {plain(one.group)}: {plain(one.reason)}", indent=11)


def _footer(outcome: Outcome) -> str:
    began = datetime.fromtimestamp(0, UTC) + timedelta(seconds=outcome.start)
    text = f"Seed {outcome.seed}, from {began:%a %Y-%m-%d %H:%M} UTC. The hub's core decided for all nodes"
    if not outcome.sampled:
        return f"{text}; no node had anything to fetch."
    text += f", the node's cores fetched for {outcome.sampled}"
    if outcome.sampled == outcome.nodes:
        return f"{text}: all of them."
    found = outcome.agreement
    off = f"; on the sample itself the model is off by {found.worst:.1%} at most (--json)" if found is not None else ""
    return f"{text}, and a model calibrated on them for the others{off}."


def _most(waited: Sequence[tuple[Reason, float]]) -> str:
    reason, hours = max((one for one in waited if one[0] != "stage"), key=lambda one: one[1])
    return reason if hours else "-"


def _cost(value: float | None) -> str:
    return f"{value:,.2f}" if value is not None else "-"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    table = [heads, *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(heads))]
    for row in table:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _wrapped(text: str, *, indent: int = 0) -> list[str]:
    lead = len(text) - len(text.lstrip())
    return wrap(text.strip(), WIDTH, initial_indent=" " * lead, subsequent_indent=" " * indent, break_long_words=False)
