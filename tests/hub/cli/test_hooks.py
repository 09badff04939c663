"""`fleetcast hooks`, as operators run it."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path

import pytest

from hub.alerts.webhooks import Poster
from hub.database.outbox import Outbox
from hub.database.store import Store
from schemas.analytics_messages import Alert
from schemas.errors import Refused, Unreachable
from tests.brokers import Authority
from tests.databases import settings_of, url_of
from tests.hub.cli.fleets import run
from tests.hub.receiving import SECRET, Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def fleet(tmp_path: Path, receiver: Receiver) -> Path:
    """A folder with one webhook and one program."""
    receiver.secret_file(tmp_path)
    (tmp_path / "fleet.toml").write_text(
        f'fleet = "plant"\n{settings_of(tmp_path / "hub.sqlite")}'
        f'[[webhooks]]\nname = "pager"\nurl = "{receiver.url}"\nsecret_file = "webhook.secret"\n'
        '[[on_drift]]\nname = "retrain"\ncommand = ["/opt/retrain", "--quick"]\n'
    )
    return tmp_path


def test_who_is_told_and_what_waits_is_listed(fleet: Path, receiver: Receiver) -> None:
    store = Store(url_of(fleet / "hub.sqlite"))
    store.create()
    outbox = Outbox(store.database)
    outbox.keep_only(["webhook pager", "on_drift retrain"])
    for number in range(3):
        store.add_alert(Alert(kind="drift", at=number, text="it drifts"))
    outbox.collect("webhook pager", lambda alert: True)
    outbox.later("webhook pager", [1], due_at=0, error="answered 500")

    done = run("hooks", "--json", fleet=fleet)

    pager, retrain = json.loads(done.stdout)
    assert (pager["receiver"], pager["to"], pager["waiting"], pager["error"]) == ("webhook pager", receiver.url, 3, "answered 500")
    assert (retrain["receiver"], retrain["to"], retrain["waiting"]) == ("on_drift retrain", "/opt/retrain --quick", 0)
    assert "answered 500" in run("hooks", fleet=fleet).stdout


def test_a_webhook_is_tried_and_says_that_it_is_a_test(fleet: Path, receiver: Receiver) -> None:
    done = run("hooks", "--test", "pager", "--json", fleet=fleet)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "confirmed"
    (got,) = receiver.got
    assert got.genuine
    assert got.document["kind"] == "test"


def test_a_test_that_fails_says_why(fleet: Path, receiver: Receiver) -> None:
    receiver.answer = lambda got: 503
    failed, unknown = run("hooks", "--test", "pager", fleet=fleet), run("hooks", "--test", "nope", fleet=fleet)

    assert (failed.returncode, unknown.returncode) == (4, 3)
    assert "answered 503" in failed.stderr
    assert "no webhook 'nope'; there are pager" in unknown.stderr


def test_a_folder_without_hooks_says_so(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('fleet = "plant"\n')

    assert run("hooks", fleet=tmp_path).stdout == "fleet.toml sets no webhooks and no on_drift hooks.\n"


def test_certificates_are_checked_against_the_authority_that_was_given(tmp_path: Path) -> None:
    mine, other = Authority(tmp_path / "mine"), Authority(tmp_path / "other", name="another CA")
    files = mine.issue("server", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    got: list[bytes] = []
    server = HTTPServer(("127.0.0.1", 0), _confirming(got))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"https://127.0.0.1:{server.server_address[1]}/"
    try:
        Poster(url, SECRET, ca_file=str(mine.ca_path), timeout_seconds=60).post("id", b"{}", timestamp=1)
        for ca_file in (str(other.ca_path), ""):
            with pytest.raises(Unreachable, match="certificate"):
                Poster(url, SECRET, ca_file=ca_file, timeout_seconds=60).post("id", b"{}", timestamp=1)
    finally:
        server.shutdown()

    assert got == [b"{}"]


def test_an_authority_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate\n")
    for name in ("ca.crt", "absent.crt"):
        with pytest.raises(Refused, match="ca_file"):
            Poster("https://x.example", SECRET, ca_file=str(tmp_path / name))


def _confirming(got: list[bytes]) -> type:
    from http.server import BaseHTTPRequestHandler

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    return Handler
