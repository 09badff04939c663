"""What is done when drift was found: real programs and real requests, once a drift, with all that speaks for it."""

import json
import os
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from hub.alerts import programs
from hub.alerts.receivers import OnDrift, Webhook
from hub.database.drift_queries import Findings
from hub.database.outbox import Outbox
from hub.database.store import EventRow
from hub.publish.block_store import BlockStore
from hub.service.alerts.dispatch import Hooks
from hub.service.alerts.on_drift import STARTS_MAX, OnDriftHook
from hub.service.rollouts.release_lookup import Releases
from hub.service.telemetry.drift_evidence import Evidence
from schemas.analytics_messages import DriftEvidence
from schemas.manifest import Manifest
from tests import brokers
from tests.hub.drifted import BEGIN, DAY, Days
from tests.hub.hubs import Device, Fleet, until
from tests.hub.receiving import receiving

KEEP = "import sys,os,json; open('got.json','w').write(sys.stdin.read()); json.dump(dict(os.environ), open('env.json','w'))"


class Site:
    """A folder in which days pass, and a hook that follows its alerts."""

    def __init__(self, directory: Path, command: str = KEEP, **settings: Any) -> None:
        self.days = Days(directory)
        self.manifest: Manifest = self.days.publish("1.0.0")
        given: dict[str, Any] = {"name": "retrain", "gather_seconds": 0.0, "timeout_seconds": 120.0}
        if "url" not in settings:
            given["command"] = (sys.executable, "-c", command)
        self.settings = OnDrift.model_validate({**given, **settings})
        self.stopped = threading.Event()
        self.start()

    def start(self) -> None:
        """A new process over the same folder."""
        self.outbox = Outbox(self.days.store.database)
        self.outbox.keep_only([self.settings.receiver])
        self.hook = OnDriftHook(
            self.settings,
            directory=self.days.directory,
            outbox=self.outbox,
            evidence=self.evidence(),
            fleet="main",
            stopped=self.stopped.is_set,
            clock=lambda: self.days.now,
            rng=Random(1),
        )

    def evidence(self) -> Evidence:
        directory = self.days.directory
        releases = Releases(self.days.fleet.repository, BlockStore(directory / "blocks"))
        return Evidence(Findings(self.days.store.database), releases, cohort_nodes_min=3)

    def drift(self, *cohorts: str) -> None:
        """Drift comes to these cohorts on the third day."""
        for day in range(4):
            for cohort in cohorts:
                self.days.hear(self.manifest, day, shift=1.0 if day >= 2 else 0.0, cohort=cohort)
            self.days.settle()

    def file(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.days.directory / name).read_text()))

    def events(self) -> list[EventRow]:
        return [one for one in self.days.store.events() if one.kind == "hook"]


def test_a_program_gets_the_evidence_on_stdin_and_as_a_file_once_a_drift(tmp_path: Path) -> None:
    site = Site(tmp_path / "fleet")
    site.drift("nyc")
    for _ in range(3):
        site.hook.turn()

    evidence = DriftEvidence.model_validate_json((tmp_path / "fleet" / "got.json").read_bytes())
    (found,) = evidence.findings
    assert found.drift is not None
    assert found.window is not None
    assert (evidence.model, evidence.fleet, found.alert.cohort, found.alert.version) == ("delay", "main", "nyc", "1.0.0")
    assert found.drift.episode == "raised"
    assert found.alert.signals[0].name == "delay"
    assert (found.window.start, found.window.seconds) == (BEGIN + 2 * DAY, DAY)
    counts, expected = found.window.signals[0].counts, found.window.signals[0].expected
    assert counts[-2] > 2 * expected[-2]
    (file,) = (tmp_path / "fleet" / "on_drift").glob("*.json")
    assert file.read_bytes() == (tmp_path / "fleet" / "got.json").read_bytes()
    (event,) = site.events()
    assert (event.body["exit_code"], event.body["outcome"]) == (0, "ended")


def test_a_program_gets_a_small_environment_and_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETCAST_PASSPHRASE_FILE", "/secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    site = Site(tmp_path / "fleet", environment={"TRAINING_HOURS": "3"})
    site.drift("nyc")
    site.hook.turn()

    environment = site.file("env.json")
    ours = {"FLEETCAST_DIR", "FLEETCAST_EVIDENCE", "FLEETCAST_EVIDENCE_ID", "FLEETCAST_MODEL", "TRAINING_HOURS"}
    assert set(environment) - ours <= {*programs.PASSED_ON, "LC_CTYPE", "PWD", "SHLVL", "_", "__CF_USER_TEXT_ENCODING"}
    assert environment["TRAINING_HOURS"] == "3"
    assert Path(environment["FLEETCAST_EVIDENCE"]).is_file()


def test_how_a_program_ended_and_what_it_said_last_is_an_event_and_it_is_not_run_again(tmp_path: Path) -> None:
    site = Site(tmp_path / "fleet", "import sys; print('x' * 100_000); print('no data to train on'); sys.exit(3)")
    site.drift("nyc")
    site.hook.turn()
    site.hook.turn()

    (event,) = site.events()
    assert event.body["exit_code"] == 3
    assert event.body["log"].endswith("no data to train on\n")
    assert len(event.body["log"]) <= programs.TAIL_BYTES_MAX
    assert event.body["cohorts"] == ["nyc"]


@pytest.mark.parametrize(
    ("program", "seconds", "delivered", "error"),
    [
        ("pass", 60.0, 1, ""),
        ("import sys; sys.exit(3)", 60.0, 0, "ended with 3"),
        ("import os; os.kill(os.getpid(), 9)", 60.0, 0, "ended with -9"),
        ("import time; time.sleep(600)", 0.5, 0, "was ended after 0.5 s"),
        (None, 60.0, 0, "could not be started"),
    ],
    ids=["ended with 0", "ended with 3", "killed", "timed out", "not started"],
)
def test_only_a_run_that_ended_with_0_counts_as_delivered(
    program: str | None, seconds: float, delivered: int, error: str, tmp_path: Path
) -> None:
    site = Site(tmp_path / "fleet", program or "pass")
    command = site.settings.command if program is not None else ("/no/such/program",)
    site.settings = site.settings.model_copy(update={"command": command, "timeout_seconds": seconds})
    site.start()
    site.drift("nyc")
    site.hook.turn()
    site.hook.turn()

    (row,) = site.outbox.receivers()
    assert (row.delivered, row.given_up, row.waiting) == (delivered, 1 - delivered, 0)
    assert (error in row.error) if error else row.error == ""
    assert len(site.events()) == 1


def test_a_program_that_takes_too_long_is_ended_with_all_its_children(tmp_path: Path) -> None:
    parent = "import subprocess,time; child = subprocess.Popen(['sleep', '600']); "
    parent += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(600)"
    site = Site(tmp_path / "fleet", parent, timeout_seconds=5.0)
    site.drift("nyc")
    site.hook.turn()

    (event,) = site.events()
    assert event.body["outcome"] == "timed_out"
    pid = int((tmp_path / "pid").read_text())
    until("the child's end", lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path / "fleet")
    site.settings = site.settings.model_copy(update={"command": ("/no/such/program",)})
    site.start()
    site.drift("nyc")
    site.hook.turn()

    (event,) = site.events()
    assert event.body["outcome"] == "not_started"
    assert "No such file" in event.text


def test_drift_in_many_cohorts_at_once_is_one_run(tmp_path: Path) -> None:
    site = Site(tmp_path / "fleet", gather_seconds=60.0)
    site.drift("nyc", "bos", "sfo")
    site.days.now -= 2 * DAY - 30
    site.hook.turn()
    before = (tmp_path / "fleet" / "got.json").exists()
    site.days.now += 2 * DAY
    site.hook.turn()

    evidence = DriftEvidence.model_validate_json((tmp_path / "fleet" / "got.json").read_bytes())
    assert not before
    assert sorted(one.alert.cohort or "" for one in evidence.findings) == ["bos", "nyc", "sfo"]
    assert len(site.events()) == 1


def test_a_run_that_the_hubs_end_cut_short_is_begun_again_with_the_same_id_and_not_for_ever(tmp_path: Path) -> None:
    note = "import os,time; open('ids','a').write(os.environ['FLEETCAST_EVIDENCE_ID']+chr(10)); time.sleep(600)"
    site = Site(tmp_path / "fleet", note, timeout_seconds=600.0)
    site.drift("nyc")
    ids = tmp_path / "fleet" / "ids"
    for start in range(1, STARTS_MAX + 2):
        site.stopped.clear()
        thread = threading.Thread(target=site.hook.turn)
        thread.start()
        if start <= STARTS_MAX:
            until("the run", lambda start=start: ids.exists() and ids.read_text().count("\n") == start)
        else:
            thread.join(100)
        site.stopped.set()
        thread.join(100)
        site.start()

    assert len(ids.read_text().split()) == STARTS_MAX
    assert len(set(ids.read_text().split())) == 1
    assert "gave up" in site.events()[-1].text
    assert site.outbox.receivers()[0].waiting == 0


def test_a_url_gets_the_evidence_signed_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    answers = iter([500, 200])
    with receiving(lambda got: next(answers)) as receiver:
        site = Site(tmp_path / "fleet", url=receiver.url, secret_file=receiver.secret_file(tmp_path))
        site.drift("nyc")
        site.hook.turn()
        site.days.now += 3600
        site.hook.turn()
        site.hook.turn()

    first, second = receiver.got
    assert first.id == second.id
    assert second.genuine
    assert DriftEvidence.model_validate_json(second.body).findings[0].alert.cohort == "nyc"
    assert len(site.events()) == 1


def test_only_drift_of_the_models_that_were_asked_for_starts_anything(tmp_path: Path) -> None:
    site = Site(tmp_path / "fleet", models=["other"])
    site.drift("nyc")
    site.hook.turn()

    assert not (tmp_path / "fleet" / "got.json").exists()


def test_one_receiver_that_hangs_holds_up_neither_the_others_nor_the_end(tmp_path: Path) -> None:
    with receiving(lambda got: "hang") as slow, receiving() as quick:
        site = Site(tmp_path / "fleet")
        secret = quick.secret_file(tmp_path)
        given = [
            Webhook(url=one.url, secret_file=secret, name=name, timeout_seconds=60) for name, one in (("slow", slow), ("quick", quick))
        ]
        settings = site.days.fleet.settings(None, webhooks=tuple(given))
        hooks = Hooks(site.days.directory, settings, store=site.days.store, evidence=site.evidence, clock=lambda: site.days.now)
        hooks.start()
        site.drift("nyc")
        until("both to be told", lambda: slow.got and quick.got)
        slow.released.set()
        began = time.monotonic()
        hooks.stop()

    assert quick.got[0].genuine
    assert time.monotonic() - began < 100


def test_output_of_a_child_that_stays_does_not_keep_a_run_open(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"
    parent = f"import subprocess,sys; subprocess.Popen([sys.executable,'-c',{child!r}]); print('done')"
    (tmp_path / "in").write_bytes(b"")
    began = time.monotonic()
    outcome = programs.run(
        [sys.executable, "-c", parent],
        stdin=tmp_path / "in",
        directory=tmp_path,
        environment={},
        timeout_seconds=300,
        stopped=lambda: False,
    )

    assert (outcome.how, outcome.exit_code, outcome.tail) == ("ended", 0, "done\n")
    assert time.monotonic() - began < 200  # the child stays for three times as long


def test_much_input_that_is_not_read_and_much_output_block_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(os.urandom(4 * 2**20))
    outcome = programs.run(
        [sys.executable, "-c", "import sys; sys.stdout.write('y' * 10_000_000 + 'end')"],
        stdin=tmp_path / "in",
        directory=tmp_path,
        environment={},
        timeout_seconds=300,
        stopped=lambda: False,
    )

    assert outcome.exit_code == 0
    assert outcome.tail.endswith("end")


def test_a_running_hub_tells_its_webhook_and_one_that_hangs_keeps_no_message_waiting(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    manifest = fleet.publish("1.0.0")

    def waiting() -> dict[str, int]:
        return {one.name: one.waiting for one in Outbox(fleet.store.database).receivers()}

    with receiving(lambda got: "hang") as slow, receiving() as quick, brokers.running("embedded", tmp_path / "broker") as broker:
        secret = quick.secret_file(tmp_path)
        given = [
            Webhook(url=one.url, secret_file=secret, name=name, timeout_seconds=60) for name, one in (("slow", slow), ("quick", quick))
        ]
        with fleet.hub(broker, webhooks=tuple(given)):
            device = Device.connect("node-a", broker, fleet)
            for _ in range(5):
                device.window(manifest, [0, 0, 0, 0, 0, 0, 0, 400, 0])
            until("the webhook", lambda: quick.got)
            until("the other's attempt", lambda: slow.got)
            device.sign("serving", manifest)
            until("a receipt while one hangs", lambda: fleet.store.receipts("delay"))
            until("what was confirmed to be kept", lambda: waiting()["webhook quick"] == 0)
            slow.released.set()

    assert quick.got[0].genuine
    assert (quick.got[0].document["kind"], quick.got[0].document["version"]) == ("drift", "1.0.0")
    assert waiting() == {"webhook quick": 0, "webhook slow": 1}
