"""Right and wrong answers are durable when they are taken; each interval of them leaves once, charged before, and not past the budget."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.core.drift.accuracy import accuracy_baseline, of_accuracy
from hub.core.drift.windows import Reader
from hub.core.publish.noise import sigma2_for
from node.core.telemetry.accuracy import LabelCounts
from node.serving.loaded_model import Observation
from node.storage import telemetry_report as telling
from node.storage.accuracy_counts import take
from node.storage.store import NodeStore
from schemas.accuracy import Accuracy
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.signals import Privacy
from schemas.window import Expectation, Window, read_counts
from tests.node.agent.telemetry.test_windows import DIGEST, Site, manifest

WEEKS = 1_000_000_000 // 60 * 60 - 21 * 86_400  # three weeks before the site's now
BIN = Path(sys.executable).parent


def accuracy(epsilon: float = 1.0) -> Accuracy:
    numerator, denominator = sigma2_for(epsilon, 1e-6, 1)
    noise = Privacy(epsilon=epsilon, delta=1e-6, sigma2_numerator=numerator, sigma2_denominator=denominator, window_seconds=60)
    return Accuracy(baseline=accuracy_baseline([(90, 10)] * 10), privacy=noise)


RELEASE = manifest(accuracy=accuracy())


def site(folder: Path, **changes: Any) -> Site:
    return Site(folder, **{"release": RELEASE, **changes})


def answers(site: Site, rows: int, at: float | None = WEEKS + 1.0, **changes: Any) -> None:
    seen = Observation("m", site.digest, {"x": np.zeros((rows, 1), np.float32)}, {}, rows, at, **changes)
    site.telemetry.labels.answered(seen)


def say(site: Site, right: int, wrong: int, at: float = WEEKS + 5.0, *, version: str | None = None, report_id: str | None = None) -> Any:
    return site.telemetry.labels.take("m", version, LabelCounts(at=at, right=right, wrong=wrong, id=report_id))  # type: ignore[arg-type]


def leave(site: Site) -> list[Window]:
    site.now += 86_400 + 1
    site.telemetry.tick(site.now)
    return site.windows()


def counts_of(window: Window, release: Manifest = RELEASE) -> list[int]:
    assert release.accuracy is not None
    baseline, noise = release.accuracy.baseline, release.accuracy.privacy
    return [int(one) for one in read_counts(window, expectation=Expectation(baseline), privacy=noise, bins=3)]


def refusal(site: Site, *arguments: Any, **changes: Any) -> Code:
    with pytest.raises(Refused) as caught:
        say(site, *arguments, **changes)
    return caught.value.code


def test_counts_of_an_interval_leave_as_one_window_that_the_hub_believes(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 700)
    taken = say(here, 300, 50)
    say(here, 200, 10)
    (waiting,) = telling.kept_back(here.store)["labels_waiting"]
    assert here.telemetry.tick(here.now) is False, "a day has to pass"

    (window,) = leave(here)

    wrong, right, other = counts_of(window)
    assert (waiting["version"], waiting["right"], waiting["wrong"]) == ("1.0.0", 500, 60)
    assert telling.kept_back(here.store)["labels_waiting"] == []
    reader = Reader(of_accuracy(RELEASE))
    assert (window.about, window.release, window.start, window.seconds) == ("accuracy", DIGEST[:8], WEEKS, 60)
    assert taken.leaves_at == int(here.now) - 1
    assert abs(wrong - 60) < 40
    assert abs(right - 500) < 40
    assert abs(other) < 40
    assert reader.read(window, now=int(here.now)).start == WEEKS
    assert here.telemetry.labels._store.interval(here.telemetry.labels.declared[0], WEEKS).right == 0, "exact counts are forgotten"


def test_a_window_of_answers_is_charged_to_the_day_of_the_answers_and_shown_byte_for_byte(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 100)
    say(here, 90, 10)
    leave(here)

    (shown,) = telling.windows(here.store, lambda prefix: None, limit=5)
    (spent,) = telling.spent(here.store, rho_day_max=0.7)
    (waiting,) = here.store.waiting(5)
    assert here.store.spent([WEEKS // 86_400]) == pytest.approx(1 / (2 * RELEASE.accuracy.privacy.sigma2_numerator / 64))  # type: ignore[union-attr]
    assert (shown["about"], shown["payload_hex"]) == ("accuracy", waiting.payload.hex())
    assert [one["name"] for one in shown["signals"]] == ["accuracy"]
    assert spent["windows"] == 1
    assert spent["epsilon_record_window"] == pytest.approx(spent["epsilon_day"])
    assert here.telemetry.budget(here.now).ledger_entries == 1


def test_a_record_that_is_counted_and_labelled_pays_for_both(tmp_path: Path) -> None:
    here = site(tmp_path)
    here.see(50, at=WEEKS + 1.0)
    here.see(1, at=WEEKS + 500.0)
    here.telemetry.tick(here.now)
    one = telling.spent(here.store, rho_day_max=0.7)[0]
    answers(here, 50)
    say(here, 40, 10)
    leave(here)

    both = telling.spent(here.store, rho_day_max=0.7)[0]
    assert both["rho"] > 1.5 * one["rho"]
    assert both["epsilon_record_window"] > 1.3 * one["epsilon_record_window"]


def test_what_was_taken_is_there_after_a_death_and_leaves_once(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 700)
    say(here, 500, 60, report_id="batch 1")
    here.store.close()

    again = site(tmp_path, now=here.now + 10)
    repeated = say(again, 500, 60, report_id="batch 1")
    (window,) = leave(again)
    again.store.close()
    third = site(tmp_path, now=again.now)
    third.telemetry.tick(third.now)

    assert repeated.again
    assert abs(counts_of(window)[1] - 500) < 40
    assert third.windows() == [window]
    assert third.telemetry.budget(third.now).ledger_entries == 1


@pytest.mark.parametrize("dies_in", ["enqueue", "close_labels"])
def test_a_death_between_charge_and_outbox_charges_nothing_and_noises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    here = site(tmp_path)
    answers(here, 100)
    say(here, 90, 10)

    class Killed(BaseException):
        pass

    def dies(*arguments: Any, **named: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(here.store, dies_in, dies)
        with pytest.raises(Killed):
            leave(here)
    nothing = here.windows(), here.store.spent([WEEKS // 86_400])
    here.store.close()
    again = site(tmp_path, now=here.now)
    again.telemetry.tick(again.now)

    assert nothing == ([], 0.0)
    assert len(again.windows()) == 1
    assert again.store.spent([WEEKS // 86_400]) > 0


def test_past_the_days_budget_answers_do_not_leave_and_the_node_says_so(tmp_path: Path) -> None:
    here = site(tmp_path, rho_day_max=0.06)  # two windows of one signal
    for minute in range(4):
        answers(here, 10, at=WEEKS + 60.0 * minute)
        say(here, 9, 1, at=WEEKS + 60.0 * minute)

    windows = leave(here)

    assert len(windows) == 2
    assert here.telemetry.budget(here.now).windows_withheld == 2
    assert telling.kept_back(here.store)["withheld_windows"] == {"ledger.spent": 2}
    assert here.store.spent([WEEKS // 86_400]) <= 0.06


def test_each_wrong_claim_is_refused_by_its_code_and_changes_nothing(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 100)
    answers(here, 50, failed=True)
    say(here, 60, 20, report_id="one")

    assert refusal(here, 15, 6) is Code.LABELS_EXCESS, "a request that failed was not answered"
    assert refusal(here, 1, 0, at=WEEKS + 600) is Code.LABELS_EXCESS, "nothing was answered then"
    assert refusal(here, 1, 0, at=here.now + 600) is Code.LABELS_FUTURE
    assert refusal(here, 1, 0, at=here.now - 500 * 86_400) is Code.LABELS_OLD
    assert refusal(here, 1, 0, version="9.9.9") is Code.LABELS_RELEASE
    assert refusal(here, 1, 0, at=WEEKS + 600, report_id="one") is Code.REQUEST_INVALID
    (window,) = leave(here)
    assert refusal(here, 1, 0) is Code.LABELS_CLOSED
    assert abs(window.rows - 80) < 50


def test_an_id_stays_with_the_release_that_answered_when_it_was_first_sent(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 100)
    first = say(here, 90, 10, report_id="one")
    here.digest = b"2" * 32
    here.telemetry.watch(here.digest, RELEASE.model_copy(update={"version": "2.0.0"}))
    answers(here, 50)

    again = say(here, 90, 10, report_id="one")

    assert (again.declared.version, again.start, again.leaves_at, again.again) == ("1.0.0", first.start, first.leaves_at, True)
    assert refusal(here, 90, 10) is Code.LABELS_RELEASE, "without the id both may be meant"
    assert refusal(here, 90, 10, version="2.0.0", report_id="one") is Code.REQUEST_INVALID


def test_an_id_with_other_counts_is_refused_until_its_interval_has_left(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 200)
    say(here, 90, 10, report_id="one")

    with pytest.raises(Refused, match="'one' was said before: wrong answers: expected 10, found 11"):
        say(here, 90, 11, report_id="one")
    leave(here)

    assert say(here, 90, 10, report_id="one").again
    assert here.store.counts_under("one").right is None, "exact counts are forgotten"  # type: ignore[union-attr]


def test_a_node_that_died_does_not_claim_to_know_what_it_answered_in_its_last_moments(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 100, at=None)
    here.now += 3600
    here.telemetry.checkpoint()
    answers(here, 40, at=None)  # in memory only
    last = here.now
    here.store.close()
    again = site(tmp_path, now=last + 300)

    say(again, 40, 0, at=last)
    assert refusal(again, 101, 0, at=last - 3600) is Code.LABELS_EXCESS
    again.telemetry.labels.leave()
    again.store.close()
    third = site(tmp_path, now=last + 900)
    answers(third, 5, at=None)
    assert refusal(third, 6, 0, at=third.now) is Code.LABELS_EXCESS, "the last one ended as it should"


def test_where_programs_give_times_of_their_own_a_death_may_have_lost_answers_of_any_time(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 100)
    here.telemetry.checkpoint()
    answers(here, 40)  # in memory only
    here.store.close()

    again = site(tmp_path, now=here.now + 300)

    assert say(again, 140, 0).start == WEEKS


def test_a_release_that_gave_way_to_another_is_still_labelled(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 100)
    here.telemetry.checkpoint()
    successor = RELEASE.model_copy(update={"version": "2.0.0"})
    here.telemetry.watch(b"2" * 32, successor)
    here.store.close()

    again = Site(tmp_path, release=successor, digest=b"2" * 32, now=here.now + 60)
    taken = say(again, 90, 10)
    (window,) = leave(again)

    assert taken.declared.version == "1.0.0"
    assert window.release == DIGEST[:8]


def test_counts_wait_while_telemetry_is_off_and_leave_when_it_is_on_again(tmp_path: Path) -> None:
    here = site(tmp_path)
    here.see(50, at=WEEKS + 1.0)
    answers(here, 100)
    say(here, 90, 10)
    here.telemetry.checkpoint()
    here.store.close()

    off = site(tmp_path, now=here.now + 2 * 86_400, sends=False)
    filled = [off.telemetry.tick(off.now + seconds) for seconds in (0, 100)]
    left, spent = off.windows(), off.store.spent([WEEKS // 86_400])
    waiting = telling.kept_back(off.store)["labels_waiting"]
    off.store.close()
    again = site(tmp_path, now=off.now + 200)
    for seconds in (0, 100):
        again.telemetry.tick(again.now + seconds)

    assert (filled, left, spent) == ([False, False], [], 0.0)
    assert [(one["right"], one["wrong"]) for one in waiting] == [(90, 10)]
    assert {one.about for one in again.windows()} == {None, "accuracy"}


def test_a_release_without_a_reference_of_answers_takes_none(tmp_path: Path) -> None:
    here = Site(tmp_path)
    answers(here, 100)

    assert refusal(here, 1, 0) is Code.LABELS_RELEASE


def test_windows_of_answers_that_wait_too_long_become_one_and_mix_with_no_others(tmp_path: Path) -> None:
    here = site(tmp_path, rho_day_max=50.0, waiting_max=8)
    for minute in range(12):
        answers(here, 100, at=WEEKS + 60.0 * minute)
        say(here, 90, 10, at=WEEKS + 60.0 * minute)
        here.see(10, at=WEEKS + 60.0 * minute + 1)
    here.see(1, at=here.now)

    windows = leave(here)

    rights = [counts_of(one)[1] for one in windows if one.about == "accuracy"]
    assert len(windows) == 8
    assert sum(one.noises for one in windows) == 12 + 12
    assert abs(sum(rights) - 12 * 90) < 12 * 8 * 4
    reader = Reader(of_accuracy(RELEASE))
    assert all(reader.read(one, now=int(here.now)) for one in windows if one.about == "accuracy")


def test_the_labels_command_prints_and_exits_the_same_beside_a_running_agent(tmp_path: Path) -> None:
    now = int(time.time())
    (tmp_path / "data").mkdir()
    (tmp_path / "root.json").write_text("{}")
    lines = ['id = "n1"', 'fleet = "main"', 'broker = "mqtt://localhost"', 'data = "data"', 'root = "root.json"', "labels_wait_seconds = 0"]
    (tmp_path / "node.toml").write_text("\n".join(lines))
    here = site(tmp_path / "data", now=float(now))
    answers(here, 100, at=now - 7200)
    here.telemetry.checkpoint()

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(BIN / "fleetcast-node"), "labels", *arguments, "--settings", str(tmp_path / "node.toml"), "--json"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    good = run("m@1.0.0", "--right", "90", "--wrong", "10", "--at", str(now - 7200))
    late = run("m", "--right", "1", "--at", "2126-01-01T00:00:00Z")
    here.now = time.time() + 1
    here.telemetry.tick(here.now)

    assert (good.returncode, late.returncode) == (0, 3), good.stderr
    assert json.loads(good.stdout)["right"] == 90
    assert json.loads(late.stdout)["error"]["code"] == "labels.future"
    assert abs(here.windows()[0].rows - 100) < 50


def test_counts_that_come_from_two_sides_at_once_are_all_there(tmp_path: Path) -> None:
    here = site(tmp_path)
    answers(here, 1000)
    here.telemetry.checkpoint()
    with NodeStore.beside(tmp_path / "node.sqlite") as other:
        for turn in range(20):
            side = here.store if turn % 2 else other
            take(side, "m", None, LabelCounts(at=WEEKS, right=9, wrong=1), now=int(here.now), wait_seconds=60)

    known = here.store.interval(here.telemetry.labels.declared[0], WEEKS)
    assert (known.right, known.wrong) == (180, 20)


def test_counts_that_a_command_says_while_their_interval_is_about_to_leave_leave_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(tmp_path)
    answers(here, 1000)
    say(here, 500, 0)
    due_labels = here.store.due_labels

    def says_more(now: int) -> list[tuple[bytes, int]]:
        due = due_labels(now)
        with NodeStore.beside(tmp_path / "node.sqlite") as other:
            take(other, "m", None, LabelCounts(at=WEEKS, right=400, wrong=0), now=now, wait_seconds=60)
        return due

    monkeypatch.setattr(here.store, "due_labels", says_more)
    (window,) = leave(here)

    assert abs(counts_of(window)[1] - 900) < 40


def test_a_file_that_an_earlier_version_made_is_read_as_one_without_labels(tmp_path: Path) -> None:
    here = Site(tmp_path)
    for table in ("declared", "labelled"):
        here.store._db.execute(f"DROP TABLE {table}")
    for column in ("right", "wrong"):
        here.store._db.execute(f"ALTER TABLE label_id DROP COLUMN {column}")
    here.store.close()
    reading = NodeStore.reading(tmp_path / "node.sqlite")

    assert reading.declared() == []
    assert reading.withheld_labels() == {}
    assert reading.labels_waiting() == []
    assert reading.counts_under("one") is None
