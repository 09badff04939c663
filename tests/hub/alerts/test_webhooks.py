"""Webhooks against a real HTTP server that fails, hangs and redirects: at least once, with the same id, and nobody waits for another."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import delete

from hub.alerts.receivers import Webhook
from hub.alerts.webhooks import Poster, read_secret, signed
from hub.database import outbox as outbox_module
from hub.database import tables
from hub.database.outbox import Outbox
from hub.database.store import Store
from hub.service.alerts.webhook_delivery import GIVE_UP_SECONDS, RETRY, WebhookTeller
from schemas.analytics_messages import Alert
from schemas.errors import Refused, Unreachable
from tests.databases import url_of
from tests.hub.receiving import SECRET, Got, Receiver, receiving

NOON = 1_774_400_000


class Desk:
    """A hub's database, a clock of ours, and one webhook."""

    def __init__(self, directory: Path, receiver: Receiver, **settings: object) -> None:
        self.directory, self.now = directory, float(NOON)
        fields = {"url": receiver.url, "secret_file": receiver.secret_file(directory), "timeout_seconds": 60.0, **settings}
        self.webhook = Webhook.model_validate(fields)
        self.start()

    def start(self) -> None:
        """A new process over the same database."""
        self.store = Store(url_of(self.directory / "hub.sqlite"), clock=lambda: self.now)
        self.store.create()
        self.outbox = Outbox(self.store.database)
        self.outbox.keep_only([self.webhook.receiver])
        poster = Poster(self.webhook.url, SECRET, timeout_seconds=self.webhook.timeout_seconds)
        self.teller = WebhookTeller(
            self.webhook, poster=poster, outbox=self.outbox, fleet="plant", stopped=lambda: False, clock=lambda: self.now, rng=Random(1)
        )

    def alert(self, text: str = "hour is higher", kind: str = "drift", model: str | None = "delay") -> int:
        """The hub raises one."""
        return self.store.add_alert(Alert.model_validate({"kind": kind, "at": int(self.now), "model": model, "text": text}))

    def turns(self, count: int, *, seconds: float = 0.0) -> None:
        """So many turns, and so long between them."""
        for _ in range(count):
            self.teller.turn()
            self.now += seconds


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def test_the_signature_is_that_of_the_standards_own_example() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    import base64

    headers = signed(base64.b64decode(secret.removeprefix("whsec_")), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_alert_arrives_whole_and_signed(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver)
    number = desk.alert()
    desk.turns(3)

    (got,) = receiver.got
    assert got.genuine
    assert got.document == {"kind": "drift", "at": NOON, "model": "delay", "code": "", "text": "hour is higher", "signals": []}
    assert got.id == f"plant.{number}.{NOON}"
    assert got.headers["content-type"] == "application/json"


def test_a_receiver_that_fails_is_tried_again_with_the_same_id_and_a_new_time(tmp_path: Path, receiver: Receiver) -> None:
    answers = iter([500, 503, 200])
    receiver.answer = lambda got: next(answers)
    desk = Desk(tmp_path, receiver)
    desk.alert()
    desk.turns(60, seconds=1)

    assert len(receiver.got) == 3
    assert len({got.id for got in receiver.got}) == 1
    assert len({got.headers["webhook-timestamp"] for got in receiver.got}) == 3
    assert all(got.genuine for got in receiver.got)
    (standing,) = desk.outbox.receivers()
    assert (standing.waiting, standing.delivered, standing.error) == (0, 1, "")


def test_what_was_not_confirmed_is_delivered_by_the_next_hub(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda got: 500
    desk = Desk(tmp_path, receiver)
    numbers = [desk.alert(f"alert {number}") for number in range(3)]
    desk.turns(2)
    desk.start()
    receiver.answer = lambda got: 200
    desk.now += 3600
    desk.turns(2)

    assert {got.id for got in receiver.got} == {f"plant.{number}.{NOON}" for number in numbers}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda got: "hang", "no answer in time"),
        (lambda got: 404, "answered 404"),
        (lambda got: "/elsewhere", "redirects are not followed"),
    ],
)
def test_what_went_wrong_is_said(tmp_path: Path, receiver: Receiver, answer: object, reason: str) -> None:
    receiver.answer = answer  # type: ignore[assignment]
    desk = Desk(tmp_path, receiver, timeout_seconds=0.5 if "in time" in reason else 60.0)
    desk.alert()
    desk.turns(1)

    (standing,) = desk.outbox.receivers()
    assert reason in standing.error
    assert receiver.url in standing.error
    assert (standing.waiting, standing.delivered) == (1, 0)


def test_a_redirect_leads_no_signed_message_elsewhere(tmp_path: Path, receiver: Receiver) -> None:
    with receiving() as other:
        receiver.answer = lambda got: other.url
        desk = Desk(tmp_path, receiver)
        desk.alert()
        desk.turns(3)

    assert len(receiver.got) == 1
    assert other.got == []


def test_nobody_at_the_other_end_is_no_error_of_ours(tmp_path: Path) -> None:
    with receiving() as gone:
        pass
    desk = Desk(tmp_path, gone)
    desk.alert()
    desk.turns(1)

    assert "refused" in desk.outbox.receivers()[0].error


def test_an_alert_that_is_never_taken_holds_up_no_other_and_is_given_up_after_three_days(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda got: 400 if b"poison" in got.body else 200
    desk = Desk(tmp_path, receiver)
    desk.alert("poison")
    for number in range(3):
        desk.alert(f"plain {number}")
    desk.turns(100, seconds=GIVE_UP_SECONDS / 90)

    texts = [got.document["text"] for got in receiver.got]
    assert {f"plain {number}" for number in range(3)} <= set(texts)
    assert 10 < texts.count("poison") < 100
    (standing,) = desk.outbox.receivers()
    assert (standing.waiting, standing.delivered, standing.given_up) == (0, 3, 1)
    (event,) = [one for one in desk.store.events() if one.kind == "hook"]
    assert "gave up an alert" in event.text
    assert event.body["reason"].endswith("answered 400")


def test_only_the_kinds_and_models_that_were_asked_for_are_told(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver, kinds=["drift", "rollout_halted"], models=["delay"])
    desk.alert("yes")
    desk.alert("another kind", kind="node_silent")
    desk.alert("another model", model="other")
    desk.alert("of no model", model=None)
    desk.alert("also", kind="rollout_halted")
    desk.turns(2)

    assert [got.document["text"] for got in receiver.got] == ["yes", "also"]


def test_a_new_receiver_hears_what_comes_and_one_that_is_gone_leaves_nothing(tmp_path: Path, receiver: Receiver) -> None:
    desk = Desk(tmp_path, receiver)
    desk.alert("before it was set")
    desk.webhook = desk.webhook.model_copy(update={"name": "second"})
    desk.start()
    desk.alert("since")
    desk.turns(2)

    assert [got.document["text"] for got in receiver.got] == ["since"]
    assert [one.name for one in desk.outbox.receivers()] == ["webhook second"]


def test_a_receiver_that_is_away_for_long_misses_the_oldest(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "WAITING_MAX", 5)
    receiver.answer = lambda got: 500
    desk = Desk(tmp_path, receiver)
    for number in range(12):
        desk.alert(str(number))
    desk.turns(1)
    receiver.answer = lambda got: 200
    receiver.got.clear()
    desk.now += 3600
    desk.turns(3)

    assert sorted(int(got.document["text"]) for got in receiver.got) == [7, 8, 9, 10, 11]
    assert desk.outbox.receivers()[0].given_up == 7
    assert any("7 alerts given up" in one.text for one in desk.store.events() if one.kind == "hook")


def test_a_flood_of_one_kind_pushes_no_alert_of_another_out_of_the_queue(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "WAITING_MAX", 20)
    receiver.answer = lambda got: 500
    desk = Desk(tmp_path, receiver)
    desk.alert("genuine")
    for number in range(400):
        desk.alert(str(number), kind="node_silent")
    desk.turns(2)
    receiver.answer = lambda got: 200
    receiver.got.clear()
    desk.now += 3600
    desk.turns(3)

    texts = [got.document["text"] for got in receiver.got]
    assert "genuine" in texts[:2]  # Nor does it wait behind them.
    assert (len(texts), texts.count("genuine"), texts[-1]) == (20, 1, "399")
    assert desk.outbox.receivers()[0].given_up == 381


def test_an_alert_that_is_not_kept_any_more_waits_for_nobody(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda got: 500
    desk = Desk(tmp_path, receiver)
    desk.alert()
    desk.turns(1)
    with desk.store.database.write() as db:
        db.execute(delete(tables.alerts))
    desk.start()

    assert desk.outbox.receivers()[0].waiting == 0


def test_waits_double_up_to_an_hour_and_are_spread() -> None:
    rng = Random(3)
    waits = [[RETRY.after(failures).wait_seconds(rng.random()) for _ in range(200)] for failures in range(1, 30)]

    assert all(max(found) <= 1.5 * RETRY.seconds_max for found in waits)
    assert all(max(found) > 1.8 * min(found) for found in waits)
    assert sum(waits[1]) > 1.7 * sum(waits[0])


@pytest.mark.parametrize(
    ("content", "reason"), [(b"short\n", "found 5"), (b"", "found 0"), (b"whsec_!!!\n", "secret file"), (b"\xff" * 40, "secret file")]
)
def test_a_secret_that_is_none_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)

    with pytest.raises(Refused, match=reason):
        read_secret(path)


def test_a_secret_is_read_as_the_standard_writes_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    (tmp_path / "b").write_bytes(SECRET)

    assert len(read_secret(tmp_path / "a")) == 24
    assert read_secret(tmp_path / "b") == SECRET
    with pytest.raises(Refused, match="No such file"):
        read_secret(tmp_path / "c")


def test_an_answer_of_any_length_is_not_read(receiver: Receiver) -> None:
    receiver.answer = lambda got: 200
    poster = Poster(receiver.url, SECRET)
    poster.post("id", b"{}", timestamp=NOON)

    receiver.answer = lambda got: 500
    with pytest.raises(Unreachable, match="answered 500"):
        poster.post("id", b"{}", timestamp=NOON)
    assert isinstance(receiver.got[0], Got)
