"""`fleetcast drift`, `drift explain` and `export-windows`, run as operators and scripts run them, on a folder in which days have passed."""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from hub.database import parquet_export
from hub.database.store import Store
from hub.operations import api_tokens
from hub.operations.opening import open_fleet
from hub.web.server import Server
from schemas.analytics_messages import MergedWindow
from tests.databases import url_of
from tests.hub.cli.fleets import Done, run
from tests.hub.cli.test_remote import in_process
from tests.hub.drifted import BEGIN, DAY, Days

DRIFTS = 11


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In nyc the delay rises on the tenth day and stays so; bos is quiet; sfo has too few nodes to be shown."""
    days = Days(tmp_path_factory.mktemp("drifting") / "fleet")
    manifest = days.publish("1.0.0")
    for day in range(14):
        days.hear(manifest, day, shift=0.8 if day >= 10 else 0.0, cohort="nyc")
        days.hear(manifest, day, cohort="bos")
        days.hear(manifest, day, cohort="sfo", nodes=2)
        days.settle()
    return days.directory


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drift that came on the third day and went on the fourth, long ago."""
    days = Days(tmp_path_factory.mktemp("quiet") / "fleet")
    days.pass_days(days.publish("1.0.0"), range(14), shift=lambda day: 1.0 if day == 2 else 0.0)
    return days.directory


def rows(done: Done) -> list[dict[str, object]]:
    return list(json.loads(done.stdout))


def test_what_drifts_is_said_with_where_since_when_and_how_far(drifting: Path) -> None:
    done = run("drift", "--json", fleet=drifting)

    assert done.returncode == DRIFTS
    assert done.stderr == ""
    first, second = rows(done)
    assert (first["model"], first["version"], first["cohort"], first["state"]) == ("delay", "1.0.0", "nyc", "drifts")
    assert first["since"] == "2026-03-12T00:00:00Z"
    (signal,) = first["signals"]  # type: ignore[misc]
    assert (signal["name"], signal["direction"]) == ("delay", "higher")
    assert signal["size"] == pytest.approx(0.8, abs=0.1)
    assert (second["cohort"], second["state"], second["signals"]) == ("bos", "quiet", [])


def test_people_read_a_table(drifting: Path) -> None:
    done = run("drift", fleet=drifting)

    assert done.returncode == DRIFTS
    assert "delay higher 0." in done.stdout
    assert "2026-03-12 00:00" in done.stdout
    assert "sfo" not in done.stdout


def test_a_cohort_that_is_quiet_ends_with_zero(drifting: Path) -> None:
    assert run("drift", "--cohort", "bos", fleet=drifting).returncode == 0
    assert run("drift", "--model", "delay", fleet=drifting).returncode == DRIFTS


def test_what_is_over_is_told_when_asked_since_when(quiet: Path) -> None:
    now, past, none = (run("drift", *more, "--json", fleet=quiet) for more in ((), ("--since", "2026-03-01"), ("--since", "2026-04-01")))

    assert [done.returncode for done in (now, past, none)] == [0, 0, 0]
    assert [row["state"] for row in rows(now)] == ["quiet"]
    (episode,) = rows(past)
    assert (episode["state"], episode["since"]) == ("over", "2026-03-04T00:00:00Z")
    assert episode["over"] is not None
    assert rows(none) == []


def test_an_alarm_of_a_release_that_nobody_serves_any_more_does_not_last(tmp_path: Path) -> None:
    days = Days(tmp_path / "fleet")
    old, new = days.publish("1.0.0"), days.publish("1.1.0")
    days.pass_days(old, range(4), shift=lambda day: 1.0 if day == 3 else 0.0)
    lasts = run("drift", fleet=days.directory)
    days.pass_days(new, range(4, 12))
    left = run("drift", "--json", fleet=days.directory)

    assert (lasts.returncode, left.returncode) == (DRIFTS, 0)
    assert [(row["version"], row["state"]) for row in rows(left)] == [("1.0.0", "left"), ("1.1.0", "quiet")]


def test_a_folder_without_intervals_says_so(tmp_path: Path) -> None:
    days = Days(tmp_path / "fleet")
    days.publish("1.0.0")

    done, explained = run("drift", fleet=days.directory), run("drift", "explain", "delay", fleet=days.directory)

    assert (done.returncode, done.stdout) == (0, "No interval has been tested yet.\n")
    assert explained.returncode == 3
    assert "no interval of delay was tested yet" in explained.stderr


def test_explain_shows_the_drifting_signal_of_the_drifting_cohort_since_it_drifts(drifting: Path) -> None:
    done = run("drift", "explain", "delay", "--json", fleet=drifting)

    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert (found["cohort"], found["alarm"], found["since"], found["intervals"]) == ("nyc", True, "2026-03-12T00:00:00Z", 4)
    (signal,) = found["signals"]
    assert (signal["name"], signal["direction"]) == ("delay", "higher")
    assert signal["bins"][0]["seen"] < 0.5 * signal["bins"][0]["expected"]
    assert sum(one["expected"] for one in signal["bins"]) == pytest.approx(1, abs=0.01)
    assert [one["alarm"] for one in signal["history"]] == [False] * 10 + [True] * 4


def test_explain_draws_on_the_terminal(drifting: Path) -> None:
    done = run("drift", "explain", "delay", "--signal", "delay", "--signal", "carrier", fleet=drifting)

    assert "delay: higher, 0." in done.stdout
    assert all(carrier in done.stdout for carrier in ("UA", "AA", "DL", "B6"))
    assert "█" in done.stdout
    assert "drifts since 2026-03-12" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_explain_shows_one_interval(drifting: Path) -> None:
    done = run(
        "drift", "explain", "delay@1.0.0", "--cohort", "nyc", "--signal", "delay", "--at", "2026-03-05T12:00", "--json", fleet=drifting
    )

    found = json.loads(done.stdout)
    assert (found["since"], found["until"], found["intervals"]) == ("2026-03-05T00:00:00Z", "2026-03-06T00:00:00Z", 1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nope",), 3, "there is no model 'nope'; there are delay"),
        (("delay@9.9.9",), 3, "no interval of delay@9.9.9 was tested"),
        (("delay", "--cohort", "x"), 3, "in cohort x"),
        (("delay", "--cohort", "sfo"), 3, "in cohort sfo"),
        (("delay", "--signal", "nope"), 3, "has no signal 'nope'; it has delay, hour, carrier"),
        (("delay", "--at", "2026-05-01"), 3, "no interval at 2026-05-01 00:00 UTC was tested; the newest began at 2026-03-15 00:00 UTC"),
        (("delay", "--at", "2026-01-01"), 3, "no interval at 2026-01-01 00:00 UTC was tested"),
        (("delay", "--at", "yesterday"), 2, "is not a time: write 2026-11-26"),
        (("delay", "--png", "/no/such/folder/a.png"), 3, "/no/such/folder"),
    ],
)
def test_what_explain_cannot_show_it_says(drifting: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run("drift", "explain", *arguments, fleet=drifting)

    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_explain_draws_files(drifting: Path, tmp_path: Path) -> None:
    done = run("drift", "explain", "delay", "--png", str(tmp_path / "a.png"), "--svg", str(tmp_path / "a.svg"), fleet=drifting)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")  # noqa: S314  # our own file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_without_the_plotting_library_it_says_what_to_install(drifting: Path, tmp_path: Path) -> None:
    hide = "import sys, importlib.abc\nclass H(importlib.abc.MetaPathFinder):\n  def find_spec(self, name, *_):\n"
    hide += "    if name.split('.')[0] == 'matplotlib': raise ModuleNotFoundError(name)\n"
    (tmp_path / "sitecustomize.py").write_text(hide + "sys.meta_path.insert(0, H())\n")
    done = run("drift", "explain", "delay", "--png", str(tmp_path / "a.png"), fleet=drifting, PYTHONPATH=str(tmp_path))

    assert done.returncode == 2
    assert "pip install matplotlib" in done.stderr
    assert run("drift", "explain", "delay", fleet=drifting, PYTHONPATH=str(tmp_path)).returncode == 0


def export(fleet: Path, out: Path, *more: str) -> dict[str, object]:
    done = run("export-windows", "--model", "delay", "--out", str(out), *more, "--json", fleet=fleet)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_duckdb_reads_what_was_exported(drifting: Path, tmp_path: Path) -> None:
    said = export(drifting, tmp_path / "w.parquet")
    query = "SELECT cohort, signal, sum(count), sum(expected), count(*) FROM read_parquet(?) GROUP BY ALL ORDER BY ALL"
    found = duckdb.execute(query, [str(tmp_path / "w.parquet")]).fetchall()

    assert (said["intervals"], said["rows"]) == (28, 28 * 23)
    assert {(cohort, signal): count for cohort, signal, _, _, count in found} == {
        (cohort, signal): 14 * bins for cohort in ("bos", "nyc") for signal, bins in (("delay", 9), ("hour", 9), ("carrier", 5))
    }
    assert all(abs(counted - expected) < 0.02 * expected for _, _, counted, expected, _ in found)
    shift = """SELECT arg_max(bin, count / expected) FROM read_parquet(?)
               WHERE cohort = 'nyc' AND signal = 'delay' AND start >= TIMESTAMPTZ '2026-03-12 00:00:00+00' AND NOT other"""
    assert duckdb.execute(shift, [str(tmp_path / "w.parquet")]).fetchall() == [(7,)]


def test_pandas_reads_what_was_exported(drifting: Path, tmp_path: Path) -> None:
    export(drifting, tmp_path / "w.parquet", "--cohort", "nyc", "--since", "2026-03-12", "--until", "2026-03-14")
    frame = pd.read_parquet(tmp_path / "w.parquet")

    assert sorted(frame.start.unique()) == [pd.Timestamp("2026-03-12", tz="UTC"), pd.Timestamp("2026-03-13", tz="UTC")]
    numeric = frame[(frame.signal == "delay") & ~frame.other].sort_values(["start", "bin"])
    assert numeric.lower.isna().sum() == 2
    assert numeric.upper.isna().sum() == 2
    assert (numeric.upper.dropna().to_numpy()[:6] == numeric.lower.dropna().to_numpy()[:6]).all()
    assert set(frame[(frame.signal == "carrier") & ~frame.other].category) == {"UA", "AA", "DL", "B6"}
    assert frame.noise_sd.gt(0).all()
    assert set(frame.windows) == {8}


def test_fewer_nodes_than_the_minimum_are_not_exported_either(drifting: Path, tmp_path: Path) -> None:
    said = export(drifting, tmp_path / "w.parquet", "--cohort", "sfo")

    assert (said["intervals"], said["rows"]) == (0, 0)
    assert len(pd.read_parquet(tmp_path / "w.parquet")) == 0


def test_a_folder_that_cannot_be_written_to_is_told_and_nothing_is_left(drifting: Path, tmp_path: Path) -> None:
    done = run("export-windows", "--model", "delay", "--out", str(tmp_path / "no" / "w.parquet"), fleet=drifting)

    assert done.returncode == 3
    assert "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_long_export_holds_one_row_group_in_memory(tmp_path: Path, drifting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_export, "GROUP_ROWS", 100)
    window = next(iter(_windows(drifting)))
    with parquet_export.writing(tmp_path / "w.parquet") as file:
        most = 0
        for number in range(300):
            file.add(window.model_copy(update={"start": BEGIN + number * DAY}))
            most = max(most, len(file._columns["bin"]))

    metadata = pq.read_metadata(tmp_path / "w.parquet")
    assert metadata.num_rows == 300 * 23
    assert metadata.num_row_groups == 300 // 5
    assert most < 100 + 23


def test_an_export_that_breaks_off_leaves_the_old_file(tmp_path: Path, drifting: Path) -> None:
    target = tmp_path / "w.parquet"
    target.write_bytes(b"old")
    window = next(iter(_windows(drifting)))
    broken = window.model_copy(update={"signals": (window.signals[0].model_copy(update={"expected": ()}),)})

    def write() -> None:
        with parquet_export.writing(target) as file:
            file.add(window)
            file.add(broken)

    with pytest.raises(ValueError, match="another number"):
        write()

    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["w.parquet"]


def _windows(fleet: Path) -> list[MergedWindow]:
    from hub.database.drift_queries import Asked, Findings
    from hub.publish.block_store import BlockStore
    from hub.service.rollouts.release_lookup import Releases
    from hub.service.telemetry import redaction
    from hub.signing.tuf_repository import Repository

    releases = Releases(Repository(fleet / "trust"), BlockStore(fleet / "blocks"))
    store = Store(url_of(fleet / "hub.sqlite"))
    found = Findings(store.database).intervals(Asked("delay", "nyc"))
    return [redaction.merged(row, releases.find(row.release)[1]) for row in found]


def test_pages_of_intervals_leave_none_out(drifting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub.database import drift_queries

    whole = _windows(drifting)
    monkeypatch.setattr(drift_queries, "PAGE", 3)

    assert _windows(drifting) == whole
    assert len(whole) == 14


@pytest.fixture(scope="module")
def over_the_api(drifting: Path) -> Iterator[tuple[str, ...]]:
    """Words by which the command line asks the API of this folder, with the token of a viewer."""
    fleet = open_fleet(drifting, "test")
    (drifting / "viewer").write_text(api_tokens.make(fleet, name="viewer", role="viewer", days=1)[1])
    server = Server(fleet)
    url = server.start()
    assert url is not None
    yield "--hub", url, "--token-file", str(drifting / "viewer")
    server.stop()


@pytest.mark.parametrize(
    "words",
    [
        ("delay", "--signal", "delay", "--signal", "carrier"),
        ("delay@1.0.0", "--cohort", "nyc", "--signal", "delay", "--at", "2026-03-05T12:00", "--json"),
        ("delay", "--json"),
        ("nothing",),
        ("delay", "--signal", "wind"),
    ],
)
def test_explain_prints_the_same_over_the_api(drifting: Path, over_the_api: tuple[str, ...], words: tuple[str, ...]) -> None:
    here = in_process("drift", "explain", *words, FLEETCAST_DIR=str(drifting))
    there = in_process(*over_the_api, "drift", "explain", *words, FLEETCAST_DIR="/nowhere")

    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)


def test_explain_draws_the_same_file_over_the_api(drifting: Path, over_the_api: tuple[str, ...], tmp_path: Path) -> None:
    for words, name in (((), "here.svg"), (over_the_api, "there.svg")):
        assert in_process(*words, "drift", "explain", "delay", "--svg", str(tmp_path / name), FLEETCAST_DIR=str(drifting)).returncode == 0

    assert (tmp_path / "here.svg").read_bytes() == (tmp_path / "there.svg").read_bytes()
