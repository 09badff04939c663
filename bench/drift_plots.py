"""A picture a row of the bar, from what a run found. Runs in the other tools' environment, which has matplotlib.

`python bench/drift_plots.py RESULTS.json FOLDER`
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "fleetcast", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
)

import matplotlib.pyplot as plt  # noqa: E402

OURS, OTHER, PALE = "#1b6ca8", "#c8553d", "#b8b8b8"
NODES = ("1", "10", "100")


def save(figure, folder, name):
    figure.tight_layout()
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def bars(folder, name, title, groups, series, ylabel, *, log=False, goal=None):
    figure, axes = plt.subplots(figsize=(6.2, 2.9))
    width = 0.8 / len(series)
    for at, (label, values, colour) in enumerate(series):
        places = [group + (at - (len(series) - 1) / 2) * width for group in range(len(groups))]
        drawn = axes.bar(places, values, width, label=label, color=colour)
        axes.bar_label(drawn, [f"{value:.3g}" for value in values], fontsize=7)
    if goal is not None:
        axes.axhline(goal, color="black", linewidth=0.8, linestyle="--", label=f"goal {goal:g}")
    if log:
        axes.set_yscale("symlog", linthresh=goal or 1)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left")
    axes.legend(fontsize=7, frameon=False)
    save(figure, folder, name)


def real_days(folder, ours, peers):
    names = {"2": "February", "3": "March", "4": "April"}
    figure, rows = plt.subplots(3, 1, figsize=(6.2, 4.4))
    for axes, month in zip(rows, names, strict=True):
        mine, theirs = ours[f"days.{month}"], peers[f"days.{month}"]
        days = range(1, len(theirs["ks"]) + 1)
        seeds = len(mine["interval"])
        either = [set(a) | set(b) for a, b in zip(mine["interval"], mine["time"], strict=True)]
        share = [sum(int(month) * 100 + day in alarms for alarms in either) / seeds for day in days]
        axes.bar(days, share, color=OURS, label="fleetcast, share of the noise's draws")
        axes.plot(days, [1.12 if alarm else None for alarm in theirs["ks"]], "s", color=OTHER, markersize=4, label="raw KS with Bonferroni")
        axes.plot(days, [1.3 if alarm else None for alarm in theirs["psi"]], "s", color=PALE, markersize=4, label="PSI > 0.2")
        axes.set_ylim(0, 1.45)
        axes.set_yticks([0, 0.5, 1])
        axes.set_ylabel(names[month])
    rows[0].set_title("Days that are alarms: storms on 8 and 9 February and 8 March 2013", loc="left")
    rows[0].legend(fontsize=7, frameon=False, loc="lower right")
    save(figure, folder, "real-days")


def delays(folder, ours, peers):
    shifts = ("0.1", "0.25", "0.5", "1.0")
    figure, columns = plt.subplots(1, 3, figsize=(7.2, 2.9), sharey=True)
    for axes, nodes in zip(columns, NODES, strict=True):
        mine, theirs = ours[f"delay.{nodes}"], peers[f"delay.{nodes}"]
        axes.plot(range(4), [mine[shift] for shift in shifts], "o-", color=OURS, label="fleetcast, counts at epsilon 1")
        axes.plot(range(4), [theirs[shift] for shift in shifts], "o-", color=OTHER, label="KS on raw rows")
        axes.set_yscale("log")
        axes.set_xticks(range(4), shifts)
        axes.set_title(f"{nodes} node{'s' if nodes != '1' else ''}", loc="left")
        axes.set_xlabel("shift, sd")
    columns[0].set_ylabel("windows (median; 101: not found)")
    columns[2].legend(fontsize=7, frameon=False)
    save(figure, folder, "delays")


def digits(folder, ours, peers):
    levels = ("0.25", "0.5", "1")
    figure, columns = plt.subplots(1, 2, figsize=(6.2, 2.9), sharey=True)
    for axes, nodes in zip(columns, NODES[:2], strict=True):
        theirs = [peers[f"digits.delay.{level}.{nodes}"]["mixed"] for level in levels]
        axes.plot(range(3), [ours[f"digits.delay.{nodes}"][level] for level in levels], "o-", color=OURS, label="fleetcast, epsilon 1")
        axes.plot(range(3), theirs, "o-", color=OTHER, label="KS on each image's signals")
        axes.set_yscale("log")
        axes.set_xticks(range(3), levels)
        axes.set_title(f"{nodes} node{'s' if nodes != '1' else ''}", loc="left")
        axes.set_xlabel("noise, grey levels of 16")
    columns[0].set_ylabel("windows (median)")
    columns[1].legend(fontsize=7, frameon=False)
    save(figure, folder, "digits")


def tried(folder, ours):
    names = list(ours["tried"])
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    for at, (shift, nodes, colour) in enumerate((("0.25", "10", OURS), ("0.1", "100", OTHER))):
        places = [row + 0.2 - 0.4 * at for row in range(len(names))]
        values = [ours["tried"][name][nodes][shift] for name in names]
        drawn = axes.barh(places, values, 0.38, color=colour, label=f"{shift} sd, {nodes} nodes")
        axes.bar_label(drawn, [f"{value:g}" for value in values], fontsize=7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("windows (median)")
    axes.set_title("What was tried to find shifts sooner", loc="left")
    axes.legend(fontsize=7, frameon=False)
    save(figure, folder, "tried")


def main():
    results = json.loads(Path(sys.argv[1]).read_text())
    ours, peers, folder = results["ours"], results["peers"], Path(sys.argv[2])
    worst = [max(rate for name, rate in ours[f"false.{nodes}"].items() if name != "one interval") for nodes in NODES]
    series = [
        ("fleetcast, worst epsilon", worst, OURS),
        ("alibi-detect KS", [peers[f"false.{nodes}"]["alibi"] for nodes in NODES], OTHER),
        ("Evidently", [peers[f"false.{nodes}"]["evidently"] for nodes in NODES], PALE),
    ]
    bars(
        folder,
        "false-alarms",
        "False alarms per 1,000 windows without drift",
        [f"{n} nodes" for n in NODES],
        series,
        "per 1,000",
        log=True,
        goal=1,
    )
    mix, own = peers["mix"], ours["mix.1.0"]
    groups = ["fleetcast", "the same without\nown baselines", "raw KS", "PSI > 0.2", "Evidently"]
    values = [
        100 * own["interval"],
        100 * own["without own baselines"],
        *[100 * sum(mix[n]) / len(mix[n]) for n in ("ks", "psi", "evidently")],
    ]
    bars(folder, "who-is-online", "Alarms while only who is online changes", groups, [("% of windows", values, OURS)], "%", goal=2)
    real_days(folder, ours, peers)
    rhos = ("0.0", "0.3", "0.5", "0.7")
    series = [
        ("31 reference days", [ours[f"dependent.{rho}.31"]["ours"] for rho in rhos], OURS),
        ("90", [ours[f"dependent.{rho}.90"]["ours"] for rho in rhos], "#7fb2d6"),
        ("31, plug-in variance", [ours[f"dependent.{rho}.31"]["plug-in"] for rho in rhos], OTHER),
        ("90, plug-in variance", [ours[f"dependent.{rho}.90"]["plug-in"] for rho in rhos], "#e3a99b"),
    ]
    bars(
        folder,
        "dependent-days",
        "False alarms per 1,000 windows of dependent days",
        [f"rho {r}" for r in rhos],
        series,
        "per 1,000",
        log=True,
        goal=1,
    )
    delays(folder, ours, peers)
    digits(folder, ours, peers)
    tried(folder, ours)
    groups = ["fleetcast", "OpenDP"]
    values = [ours["sampler_per_s"], peers["sampler"]]
    bars(folder, "sampler", "Exact draws of noise a second", groups, [("draws", values, OURS)], "a second", log=True, goal=1e5)
    groups = ["fleetcast", "whylogs profiles"]
    values = [ours["merge_per_s"], peers["merge"]]
    bars(folder, "merge", "Windows of 20 signals merged a second, one core", groups, [("windows", values, OURS)], "a second", log=True)
    groups = ["fleetcast", "alibi-detect", "Evidently"]
    values = [ours["step_ms"], peers["speed"]["alibi"], peers["speed"]["evidently"]]
    bars(folder, "step", "One window of 12 signals, 10,000 rows", groups, [("milliseconds", values, OURS)], "ms", log=True, goal=0.2)
    groups = ["fleetcast", "raw float32,\n100 rows", "whylogs,\n100 rows", "whylogs,\n10,000 rows"]
    values = [ours["window_bytes"], peers["bytes.100"]["raw"], peers["bytes.100"]["whylogs"], peers["bytes.10000"]["whylogs"]]
    bars(folder, "window-bytes", "Bytes of a window of 20 signals", groups, [("bytes", values, OURS)], "bytes", log=True, goal=200)


if __name__ == "__main__":
    main()
