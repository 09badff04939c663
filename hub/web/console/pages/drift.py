"""Answer what drifts, since when, how much, and whether it matters."""

import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from markupsafe import Markup

from fleetcast.counted import counted as number_of
from fleetcast.counted import named, verb
from fleetcast.sentence_end import ended
from hub.core.drift import shift_size
from hub.database.drift_queries import Findings
from hub.operations import csv_exports, drift_story
from hub.operations.csv_exports import Table
from hub.operations.drift_effect import WHISKER_SDS, Effect, effects
from hub.operations.drift_rows import SIGNALS
from hub.operations.drift_story import Explained, Story
from hub.operations.known_drifts import mark_known
from hub.service.rollouts.release_lookup import Releases
from hub.web.console.moments import counted, day, lasting, moment
from hub.web.console.page import Answer, Asking, Done, Given, Page, Question, View
from hub.web.console.pages.matters import drift_of, is_open
from hub.web.console.pages.models import manifests_of
from hub.web.console.refusals import NotThere, Wrong
from hub.web.console.sentence import bold, code, link, path, said
from hub.web.pictures.bullet import bullet
from hub.web.pictures.evidence import Evidence, Interval, evidence
from hub.web.pictures.histogram import Bin, Histogram, histogram
from schemas.analytics_messages import Drift, SignalDrift
from schemas.errors import Refused

TESTS_MAX: Final = 120
STORY_SECONDS: Final = 30.0
STORIES_MAX: Final = 32
WORDS: Final = {"quiet": "quiet", "calibrates": "calibrate", "too few": "too few", "left": "left"}
ARROWS: Final = {"higher": "↑", "lower": "↓", "shape": "~"}


def load(view: View) -> Answer:
    """Return the page of all streams, with the one that needs most in full."""
    model = view.query.get("model")
    rows = _ordered([row for row in drift_of(view) if model in {None, row["model"]}])
    chosen = next((row for row in rows if row["evidence"] is not None), None)
    return _answer(view, rows, chosen)


def table(view: View) -> Table:
    """Return all streams that are asked for."""
    return csv_exports.drift(view.fleet, view.query.get("model"), None)


def load_stream(view: View) -> Answer:
    """Return the page of one stream."""
    params, about = view.params, view.query.get("about", SIGNALS)
    key = (params["model"], params["version"], params["cohort"], about)
    rows = _ordered(drift_of(view))
    chosen = next((row for row in rows if (row["model"], row["version"], row["cohort"], row["about"]) == key), None)
    if chosen is None:
        return _not_tested(view)
    return _answer(view, rows, chosen, is_asked=True)


def _not_tested(view: View) -> Answer:
    model, version, cohort = (view.params[name] for name in ("model", "version", "cohort"))
    manifest = next((one for one in manifests_of(view).values() if (one.model, one.version) == (model, version)), None)
    if manifest is not None and manifest.baseline is None:
        sentence = said(f"{version} watches no signals: it was published without ", code("--reference"), ".")
        raise NotThere(Wrong(404, sentence, title="no reference"))
    name = bold(f"{model} {version} {cohort}")
    raise NotThere(Wrong(404, said("No stream ", name, " is tested. ", link("Those that are", "/drift"), "."), title="no stream"))


def _answer(view: View, rows: Sequence[dict[str, Any]], chosen: dict[str, Any] | None, *, is_asked: bool = False) -> Answer:
    drifting = [row for row in rows if row["alarm"]]
    story, why = _story(view, chosen) if chosen is not None else (None, "")
    tests = _tests(view, chosen) if chosen is not None else []
    of = f"{chosen['model']}@{chosen['version']} --cohort {shlex.quote(chosen['cohort'])}" if chosen is not None else ""
    only = f" --model {shlex.quote(view.query['model'])}" if view.query.get("model") else ""
    return Answer(
        _stream_sentence(chosen, view.now) if is_asked and chosen is not None else _sentence(rows, view.now),
        f"fleetcast drift{only}{f'; fleetcast drift explain {of}' if of else ''}",
        {
            "streams": [_stream(row, row is chosen, view.now) for row in rows],
            "chosen": chosen,
            "chosen_name": f"{chosen['model']} {chosen['version']}, {chosen['cohort']}" if chosen is not None else "",
            "evidence": _evidence(chosen, tests) if chosen is not None else None,
            "evidence_note": f"a point in {lasting(tests[-1].seconds)}, {counted(tests[-1].windows)} {named(tests[-1].windows, 'node')}"
            if tests
            else "",
            "signals": [_signal(one) for one in story.signals] if story is not None else [],
            "period": story.summary if story is not None else "",
            "outputs": _effects(view, story) if story is not None else [],
            "table": _table(view, tests[-1], story) if tests else [],
            "why": why,
            "known_at": _known_at(chosen) if chosen is not None and is_open(chosen) else "",
        },
        title=f"drift: {chosen['model']} {chosen['version']} {chosen['cohort']}" if is_asked and chosen is not None else "drift",
        lead=_lead(rows),
        needs=sum(is_open(row) for row in drifting),
        crumbs=(link("Drift", "/drift"), said(f"{chosen['model']} {chosen['version']} {chosen['cohort']}" if chosen is not None else ""))
        if is_asked
        else (),
    )


def _ordered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the streams by their evidence over its bar; those without come last."""

    def over(row: dict[str, Any]) -> tuple[bool, bool, float]:
        found, needed = row["evidence"], row["evidence_needed"]
        return not row["alarm"], found is None, -((found or 0.0) - (needed or 0.0))

    return sorted(rows, key=lambda row: (*over(row), row["model"], row["cohort"]))


def _sentence(rows: Sequence[dict[str, Any]], now: int) -> Markup | str:
    drifting = [row for row in rows if row["alarm"]]
    if drifting:
        first = drifting[0]
        which = f"{first['model']} {first['version']} in cohort {first['cohort']}, since {_since(first, now)}"
        more = f", and {len(drifting) - 1} more" if len(drifting) > 1 else ""
        count = f"{len(drifting)} of {number_of(len(rows), 'stream')} {verb(len(drifting), 'drift')}: "
        return said(count, link(which, _at(first), "bad"), more)
    judged = sum(row["state"] in {"quiet", "left"} for row in rows)
    if judged:
        hour = sum(row["state"] in {"quiet", "left"} and row["newest_at"] >= now - 7200 for row in rows)
        return f"No stream drifts. {hour} {'was' if hour == 1 else 'were'} judged in the last hour."
    waits = Counter(row["state"] for row in rows)
    if not rows:
        return "Nothing can be judged yet: no interval of any stream has come."
    parts = (
        [f"{waits['calibrates']} {'stream calibrates' if waits['calibrates'] == 1 else 'streams calibrate'}"] if waits["calibrates"] else []
    )
    few = [row for row in rows if row["state"] == "too few"]
    if few:
        parts.append(f"{len(few)} {'has' if len(few) == 1 else 'have'} too few nodes ({few[0]['reason']})")
    return f"Nothing can be judged yet: {', '.join(parts)}."


def _stream_sentence(row: dict[str, Any], now: int) -> str:
    name = f"{row['model']} {row['version']} in cohort {row['cohort']}"
    match row["state"]:
        case "drifts":
            return f"{name} drifts, since {_since(row, now)}"
        case "calibrates":
            return f"{name} calibrates: its nodes gather baselines of their own"
        case "too few":
            return f"{name} cannot be judged: {row['reason']}"
        case "left":
            return f"{name} has drifted, and was left by its nodes"
        case _:
            return f"{name} is quiet"


def _lead(rows: Sequence[dict[str, Any]]) -> str:
    """Return the sentence of the other streams, so that all add up."""
    counts = Counter(row["state"] for row in rows)
    parts = [f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state]]
    others = sum(counts[state] for state in WORDS)
    if not parts:
        return ""
    if not counts["drifts"]:
        return f"{', '.join(parts)}."
    return f"{counted(others)} {'does' if others == 1 else 'do'} not: {', '.join(parts)}."


def _seconds(text: str | None) -> int | None:
    return None if text is None else int(datetime.fromisoformat(text).timestamp())


def _since(row: dict[str, Any], now: int) -> str:
    at = _seconds(row["since"])
    return "" if at is None else day(at) if now - at > 86_400 else moment(at, now)


def _at(row: dict[str, Any], **more: str) -> str:
    about = {"about": row["about"]} if row["about"] != SIGNALS else {}
    return path("drift", row["model"], row["version"], row["cohort"], **about, **more)


def _known_at(row: dict[str, Any]) -> str:
    about = {"about": row["about"]} if row["about"] != SIGNALS else {}
    return path("drift", row["model"], row["version"], row["cohort"], "known", **about)


def ask_known(view: View) -> Asking:
    """Return the question behind Mark as known."""
    row = _asked_row(view)
    name = f"{row['model']} {row['version']} in {row['cohort']}"
    return Asking(
        heading="Mark as known?",
        text=said(f"{name} stays ", code("drifts"), "; the fleet page counts it as known until its evidence doubles or 7 days are over."),
        no="Leave it open",
        yes="Mark as known",
        cli="",
        back_to=_at(row),
        etag=str(row["since"]),
        figure=f"drifts since {_since(row, view.now)}",
        section="Drift",
    )


def know(view: View, given: Given) -> Done:
    """Mark a drift as known."""
    row = _asked_row(view)
    mark_known(view.fleet, row, now=view.now, why=given.reason)
    for name in ("drift", "matters"):
        view.shared.forget(name)
    return Done(_at(row))


def _asked_row(view: View) -> dict[str, Any]:
    key = (*(view.params[name] for name in ("model", "version", "cohort")), view.query.get("about", SIGNALS))
    for row in drift_of(view):
        if (row["model"], row["version"], row["cohort"], row["about"]) == key and row["alarm"]:
            return row
    raise NotThere(Wrong(404, said(bold(" ".join(key[:3])), " does not drift. ", link("What does", "/drift"), "."), title="no drift"))


def _stream(row: dict[str, Any], is_chosen: bool, now: int) -> dict[str, Any]:
    found, needed = row["evidence"], row["evidence_needed"]
    picture = None
    if found is not None and needed is not None:
        tone = "a-bad" if row["alarm"] else "a-old"
        picture = bullet(max(0.0, found), needed, full=needed * 5 / 3, label=f"{found:.1f} of {needed:.1f}", css=tone, width=75)
    names = ", ".join(f"{one['name']} {ARROWS[one['direction']]}" for one in row["signals"][:3])
    return {
        "name": f"{row['model']} {row['version']}",
        "id": f"stream-{row['model']}-{row['version']}-{row['cohort']}-{row['about']}",
        "where": row["cohort"]
        + (f", {row['about']}" if row["about"] != SIGNALS else "")
        + (f", since {_since(row, now)}" if row["since"] else ""),
        "address": _at(row),
        "state": row["state"],
        "is_wrong": row["alarm"],
        "is_soft": row["state"] in {"calibrates", "too few", "left"},
        "detail": (f"known until {day(row['known_until'])}: " if row["known_until"] is not None else "") + (row["reason"] or names),
        "evidence": f"{found:.1f}" if found is not None else "",
        "bar": f"{needed:.1f}" if needed is not None else "",
        "picture": picture,
        "is_chosen": is_chosen,
    }


def _tests(view: View, row: dict[str, Any]) -> list[Drift]:
    about = None if row["about"] == SIGNALS else row["about"]
    key = (row["model"], row["version"], row["cohort"], about)
    return view.shared.get(
        ("tests", *key),
        lambda: Findings(view.fleet.store.database).drifts(key, limit=TESTS_MAX),
        seconds=STORY_SECONDS,
        at_most=STORIES_MAX,
    )


def _evidence(row: dict[str, Any], tests: Sequence[Drift]) -> Any:
    points = tuple(
        Interval(one.start, one.evidence, one.evidence_needed)
        for one in tests
        if one.evidence is not None and one.evidence_needed is not None
    )
    raised = [one.start for one in tests if one.episode == "raised"]
    return evidence(
        Evidence(f"{row['model']} {row['version']} {row['cohort']}", points, _seconds(row["since"]), raised[-1] if raised else None)
    )


def _story(view: View, row: dict[str, Any]) -> tuple[Story | None, str]:
    """Return what is known of a stream's signals, or why nothing is shown."""
    signal, at = view.query.get("signal"), view.query.get("at")
    names = (signal,) if signal else ()
    if at is not None and not (at.isascii() and at.isdecimal() and len(at) < 12):
        raise NotThere(Wrong(422, said("At is a moment in seconds since 1970, not ", bold(at[:40]), "."), title="no moment"))
    question = drift_story.Question(row["model"], row["version"], row["cohort"], names, int(at) if at is not None else None)
    fleet = view.fleet

    def read() -> tuple[Story | None, str]:
        findings, releases = Findings(fleet.store.database), Releases(fleet.repository, fleet.blocks)
        try:
            return drift_story.story_of(findings, releases, question, cohort_nodes_min=fleet.settings.cohort_nodes_min), ""
        except Refused as refused:
            if signal or at:
                raise
            return None, ended(f"Nothing is drawn: {refused.reason}")

    if row["state"] == "too few":
        return None, f"Nothing is drawn: {row['reason']}."
    return view.shared.get(("story", question), read, seconds=STORY_SECONDS, at_most=STORIES_MAX)


def _signal(one: Explained) -> dict[str, Any]:
    bins = tuple(Bin(_label(each.label), each.expected, each.seen, WHISKER_SDS * each.sd) for each in one.comparison.bins)
    moved = one.comparison.moved
    way = "another shape" if moved.direction == "shape" else moved.direction
    size = shift_size.in_short(moved.value, moved.low, moved.high, moved.unit)
    return {
        "name": one.comparison.name,
        "title": f"{one.comparison.name}: {way}, {size}" if moved.value else f"{one.comparison.name}: as before",
        "picture": histogram(Histogram(one.comparison.name, bins)),
        "since": day(one.since) if one.since else "",
    }


def _label(label: str) -> str:
    """Return what a bin holds, as short as an axis needs it: <2, 2, ≥3.2."""
    if label.startswith("below "):
        return f"<{label.removeprefix('below ')}"
    if label.endswith(" and up"):
        return f"≥{label.removesuffix(' and up')}"
    return label.partition(" to ")[0]


def _effects(view: View, story: Story) -> list[Markup]:
    """Return the sentences of what the drift does to the answers."""
    outputs = _outputs(view, story)
    if not outputs:
        return []
    question = drift_story.Question(story.model, story.version, story.cohort, tuple(outputs), None)
    fleet = view.fleet

    def read() -> tuple[Effect, ...]:
        findings, releases = Findings(fleet.store.database), Releases(fleet.repository, fleet.blocks)
        try:
            found = drift_story.story_of(findings, releases, question, cohort_nodes_min=fleet.settings.cohort_nodes_min)
        except Refused:
            return ()
        return effects((one.comparison for one in found.signals), rows=found.window.rows, seconds=found.window.seconds)

    return [_effect(one, story.cohort) for one in view.shared.get(("effects", question), read, seconds=STORY_SECONDS, at_most=STORIES_MAX)]


def _effect(one: Effect, cohort: str) -> Markup:
    more = one.more_a_day
    ends = f": about {counted(abs(more))} {'more' if more > 0 else 'fewer'} a day at {cohort}." if more else "."
    share = f"{100 * one.share:.1f} ± {100 * one.whisker:.1f} %"
    return said(bold(one.signal), f" is {one.answer} for ", bold(share), f" of rows, {100 * one.reference:.1f} % in the reference", ends)


def _outputs(view: View, story: Story) -> list[str]:
    for one in manifests_of(view).values():
        if (one.model, one.version) == (story.model, story.version) and one.baseline is not None:
            return [signal.name for signal in one.baseline.signals if signal.side == "output"]
    return []


def _table(view: View, test: Drift, story: Story | None) -> list[dict[str, Any]]:
    """Return a line for each signal of the newest test, those with most evidence first."""
    sides = {}
    for one in manifests_of(view).values():
        if (one.model, one.version) == (test.model, test.version) and one.baseline is not None:
            sides = {signal.name: signal.side for signal in one.baseline.signals}
    shown = {one.comparison.name for one in story.signals} if story is not None else set()
    rows = sorted(test.signals, key=lambda one: (-(one.evidence or 0.0), one.p_adjusted))
    return [
        {
            "name": one.name,
            "address": path("drift", test.model, test.version, test.cohort, signal=one.name),
            "is_shown": one.name in shown,
            "side": sides.get(one.name, ""),
            "direction": one.direction if one.size else "as before",
            "size": _size(one),
            "evidence": f"{one.evidence:.1f}" if one.evidence is not None else "",
            "is_wrong": bool(one.alarm),
        }
        for one in rows[:20]
    ]  # fmt: skip


def _size(one: SignalDrift) -> str:
    if one.size_unit is None or one.size_low is None or one.size_high is None or not one.size:
        return f"{one.size:.2f}" if one.size else "0"
    return shift_size.in_short(one.size, one.size_low, one.size_high, one.size_unit)


QUERY: Final = frozenset({"signal", "at", "about"})
PAGES: Final = (
    Page("/drift", "drift.html", load, "Drift", frozenset({"model"}), table=table),
    Page("/drift/{model}/{version}/{cohort}", "drift.html", load_stream, "Drift", QUERY),
)
QUESTIONS: Final = (
    Question(
        "/drift/{model}/{version}/{cohort}/known",
        "Marking a drift as known",
        "operator",
        ask_known,
        know,
        frozenset({"about"}),
        subject="the stream",
    ),
)
