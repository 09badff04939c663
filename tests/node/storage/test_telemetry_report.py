"""What a device shows of its telemetry is what left it: the same bytes, the same counts, what was charged, and what was kept back."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from node.cli.commands import command
from node.core.telemetry.privacy import epsilon_of
from node.storage import telemetry_report
from node.storage.store import NodeStore
from schemas import codec
from schemas.manifest import Manifest
from schemas.window import Window
from tests.node.agent.telemetry.test_windows import DIGEST, Site, manifest


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.minutes(3, 200)
    return made


def read(digest: bytes) -> Manifest | None:
    return manifest() if digest == DIGEST else None


def test_windows_are_shown_byte_for_byte_and_decoded(site: Site) -> None:
    shown = list(telemetry_report.windows(site.store, telemetry_report.released(site.store, read), limit=2))

    payloads = [one.payload for one in site.store.waiting(10)][::-1][:2]
    assert [bytes.fromhex(one["payload_hex"]) for one in shown] == payloads
    assert [one["bytes"] for one in shown] == [len(payload) for payload in payloads]
    (signal,) = shown[0]["signals"]
    assert len(signal["bins"]) == len(signal["counts"])
    assert abs(sum(signal["counts"]) - codec.decode(Window, payloads[0]).rows) < 30
    assert signal["bins"][-1] == "other"


def test_windows_of_a_release_that_is_gone_are_shown_as_bytes(site: Site) -> None:
    assert [one["signals"] for one in telemetry_report.windows(site.store, lambda prefix: None, limit=1)] == [None]
    assert telemetry_report.released(site.store, read)(b"12345678") is None


def test_both_epsilons_of_a_day_are_shown(site: Site) -> None:
    (day,) = telemetry_report.spent(site.store, rho_day_max=0.7)

    assert (day["day"], day["windows"]) == ("1970-01-01", 3)
    assert day["epsilon_record_window"] == pytest.approx(1.0, abs=0.2)
    assert day["epsilon_record_window"] < day["epsilon_day"] < 3 * day["epsilon_record_window"]


def test_a_record_of_the_calibration_is_told_twice_and_its_epsilon_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=5.0, release=manifest(calibration_rows=256))
    site.minutes(4, 200)

    (day,) = telemetry_report.spent(site.store, rho_day_max=5.0)

    window = site.store.ledger()[1][0].rho
    assert day["epsilon_record_window"] == pytest.approx(epsilon_of(2 * window, telemetry_report.DELTA))
    assert day["windows"] == 4


def test_what_was_kept_back_is_shown_by_its_code(tmp_path: Path) -> None:
    site = Site(tmp_path, rho_day_max=0.06)
    site.rows(np.array([np.nan, 1.0]), at=5.0)
    site.minutes(4, 50)
    site.telemetry.checkpoint()

    found = telemetry_report.kept_back(site.store)

    assert found["withheld_windows"] == {"ledger.spent": 2}
    assert found["odd_rows"] == [{"day": "2001-09-09", "model": "m", "code": "rows.not_finite", "rows": 1}]
    assert (found["ledger_entries"], found["quiet_until"]) == (2, None)


def test_a_node_that_never_ran_has_told_nothing(tmp_path: Path) -> None:
    store = NodeStore(tmp_path / "node.sqlite")

    assert list(telemetry_report.windows(store, lambda prefix: None, limit=5)) == []
    assert telemetry_report.spent(store, rho_day_max=0.7) == []


# As the first agents made them: no ledger, no odd rows, and no word of why a window was withheld
FIRST = """
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, topic TEXT NOT NULL, payload BLOB NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0);
CREATE TABLE spent (day INTEGER PRIMARY KEY, rho REAL NOT NULL);
CREATE TABLE window (model TEXT NOT NULL, release BLOB NOT NULL, start INTEGER NOT NULL, at INTEGER NOT NULL,
    rows INTEGER NOT NULL, rho REAL NOT NULL, sent INTEGER NOT NULL, PRIMARY KEY (model, release, start));
"""


@pytest.mark.parametrize(("tables", "windows", "days"), [("", 0, []), (FIRST, 1, ["1970-01-03"])], ids=["no table", "first tables"])
def test_a_database_that_the_new_agent_has_not_opened_yet_reads_as_todays(
    site: Site, tmp_path: Path, tables: str, windows: int, days: list[str]
) -> None:
    folder = tmp_path / "device"
    (folder / "data").mkdir(parents=True)
    (folder / "node.toml").write_text('id = "gw-1"\nfleet = "f"\nbroker = "mqtt://127.0.0.1:1"\ndata = "data"\nroot = "root.json"\n')
    old = sqlite3.connect(folder / "data" / "node.sqlite")
    old.executescript("CREATE TABLE slot (model TEXT PRIMARY KEY, document TEXT NOT NULL);" + tables)
    if tables:
        old.execute("INSERT INTO outbox (kind, topic, payload) VALUES ('window', 't', ?)", (codec.encode(site.windows()[0]),))
        old.execute("INSERT INTO spent VALUES (2, 0.25)")
        old.execute("INSERT INTO window VALUES ('m', ?, 0, 0, 9, 0.25, 0)", (DIGEST,))
        old.commit()
    old.close()
    before = (folder / "data" / "node.sqlite").read_bytes()

    def ask(what: str) -> Any:
        telemetry_report = CliRunner().invoke(
            command, ["telemetry", what, "--settings", str(folder / "node.toml"), "--json"], catch_exceptions=False
        )
        assert telemetry_report.exit_code == 0
        return json.loads(telemetry_report.stdout)

    shown, spent, kept = ask("show"), ask("budget"), ask("kept")
    assert (len(shown), [row["day"] for row in spent]) == (windows, days)
    assert kept["telemetry"] is True
    assert (sum(kept["withheld_windows"].values()), kept["odd_rows"], kept["late_intervals"], kept["ledger_entries"]) == (windows, [], 0, 0)
    assert (folder / "data" / "node.sqlite").read_bytes() == before
