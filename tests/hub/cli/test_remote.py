"""`fleetcast --hub URL` does what the command does on the fleet's folder: the same output, and the same exit code."""

import io
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from fleetcast.backoff import Backoff
from hub.cli.commands import command
from hub.cli.errors import Exit, guarded
from hub.client.hub_client import HubClient
from hub.client.place import place_of
from hub.database.enrolments import CertificateRow, Enrolments, Place
from hub.database.store import Store
from hub.operations import opening
from schemas.enrolment import Token
from schemas.errors import Code, Refused
from tests.hub.cli.fleets import Done, Made, ridge
from tests.hub.web.conftest import unused
from tests.hub.web.fleets import Asked, copied, served

__all__ = ["unused"]


def in_process(*words: str, **environment: str) -> Done:
    """The command line in this process: a hundred processes would take a minute."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["fleetcast", *words])
        try:
            guarded(lambda: command(list(words), prog_name="fleetcast", standalone_mode=False))
        except SystemExit as end:
            code = int(end.code or 0)
    return Done([*words], code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Doors:
    """A fleet with a hub: its folder, and its API with a token of an administrator."""

    made: Made
    url: str
    token: Path

    def here(self, *words: str) -> Done:
        return in_process(*words, FLEETCAST_DIR=str(self.made.fleet), FLEETCAST_PASSPHRASE_FILE=str(self.made.secret))

    def there(self, *words: str, token: Path | None = None, url: str | None = None) -> Done:
        found = ["--hub", url or self.url, "--token-file", str(token or self.token), *words]
        return in_process(*found, FLEETCAST_DIR=str(self.made.folder / "nowhere"), FLEETCAST_PASSPHRASE_FILE=str(self.made.secret))

    def both(self, *words: str) -> tuple[Done, Done]:
        return self.here(*words), self.there(*words)


@pytest.fixture(scope="module")
def doors(unused: Asked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("doors")
    with served(copied(unused, folder / "made")) as asked:
        token = folder / "token"
        token.write_text(asked.tokens["admin"] + "\n")
        made = asked.made
        assert made.run("rollout", "start", "m@1.0.0", "--stages", "canary: site=jfk; 100", "--approve", "100").returncode == 0
        assert made.run("deploy", "set", "m", "hold", "--where", "node=n3", "--release", "1.1.0", "--priority", "90").returncode == 0
        assert made.run("nodes", "label", "n2", "ring=canary").returncode == 0
        yield Doors(made, str(asked.client.base_url), token)


@pytest.mark.parametrize(
    "words",
    [
        "models",
        "releases",
        "releases m",
        "releases nothing",
        "nodes",
        "nodes list --limit 2",
        "nodes list --after n1 --limit 2",
        "nodes list --where site=jfk",
        "nodes list --where site=nowhere",
        "nodes list --where =",
        "nodes list --columns node,serves --sort serves",
        "nodes list --after z",
        "nodes n1",
        "nodes n99",
        "nodes settings n2",
        "nodes settings n99",
        "deploy list",
        "deploy list m",
        "rollout status",
        "rollout status m --gates",
        "rollout status m --nodes",
        "rollout status m --where site=jfk",
        "rollout status m --where site=nowhere",
        "rollout status nothing",
        "rollout status --nodes",
        "plan m@1.1.0",
        "plan m@1.1.0 --where site=jfk --no-nodes --rate metered=300000",
        "plan m@9.9.9",
        "drift",
        "history --limit 3",
        "history --node n2",
        "history --blueprint",
        "status",
        "diff",
        "diff --revision 7",
        "blueprint --revision 7",
        "ledger m@1.0.0",
        "ledger m@9.9.9",
        "bytes",
        "bytes --day 2026-11-26 --by site",
        "bytes --day 2999-01-01",
        "tokens list",
        "tokens revoke nobody",
        "tokens make admin --role viewer",
        "nodes replace n99",
        "nodes replace n1 --fingerprint ab",
        "watch --history --kind rollout",
        "rollout halt nothing",
        "rollout back m --deployment nothing",
        "rollout start m@9.9.9",
        "rollout start m@1.1.0 --stages 50,10",
        "rollout start m@1.1.0 --where site=nowhere",
        "rollout set m",
        "deploy remove m nothing",
        "nodes label n2 ring",
        "nodes set n2 telemetry=perhaps",
    ],
)
def test_a_command_says_and_ends_the_same_on_the_folder_and_over_the_api(doors: Doors, words: str) -> None:
    as_text, as_json = doors.both(*words.split()), doors.both(*words.split(), "--json")

    for here, there in (as_text, as_json):
        assert there.returncode == here.returncode, (here.stderr, there.stderr)
        if here.returncode in {Exit.REFUSED, Exit.USAGE}:
            assert code_of(there) in {code_of(here), "request.unknown"}, (here.stderr, there.stderr)
    if as_json[0].returncode not in {Exit.REFUSED, Exit.USAGE}:
        assert timeless(as_text[1].stdout) == timeless(as_text[0].stdout)
        assert parsed(as_json[1]) == parsed(as_json[0])


@pytest.mark.parametrize(
    "words",
    [
        "releases remove m@1.0.0 --yes --team-key KEYS/team.pem",
        "models remove m --yes --targets-key KEYS/targets.pem",
        "rollout start m@1.1.0 --where site=nowhere",
        "rollout start m@1.0.0 --deployment none",
        "rollout set m --set a=1",
        "deploy set m again --where site=nowhere --release 1.0.0",
        "enroll token --node relay",
        "enroll token --node n6 --cohort ?",
        "enroll token --node N6",
        "nodes replace n99",
    ],
)
def test_a_refusal_names_options_on_the_folder_and_over_the_api(doors: Doors, words: str) -> None:
    here, there = doors.both(*words.replace("KEYS", str(doors.made.fleet / "keys")).split())

    assert there.returncode == here.returncode != 0
    assert there.stderr.replace("request.unknown", code_of(here)) == here.stderr


def timeless(text: str) -> str:
    """Without what differs between two moments: how long ago something was."""
    return re.sub(r"(\d+|an?) (seconds?|minutes?|hours?|s|min)\b", "a while", text)


def parsed(done: Done) -> object:
    try:
        return json.loads(done.stdout)
    except ValueError:  # A line of JSON for each event.
        return [json.loads(line) for line in done.stdout.splitlines()]


def code_of(done: Done) -> str:
    found = re.findall(r"\[([a-z_.]+)\]$", done.stderr.strip())
    return found[-1] if found else done.stderr.split(":")[0]


def test_a_rollout_is_started_halted_resumed_and_taken_back_over_the_api(doors: Doors) -> None:
    started = doors.there("rollout", "start", "m@1.1.0", "--where", "site=lga", "--stages", "50,100", "--json")
    halted = doors.there("rollout", "halt", "m", "--deployment", "site-lga")
    twice_there, twice_here = (
        doors.there("rollout", "halt", "m", "--deployment", "site-lga"),
        doors.here("rollout", "halt", "m", "--deployment", "site-lga"),
    )
    followed = doors.there("rollout", "resume", "m", "--deployment", "site-lga", "--json")
    approved = doors.there("rollout", "approve", "m")
    ambiguous = doors.there("rollout", "halt", "m")
    back = doors.there("rollout", "back", "m", "--deployment", "site-lga")
    removed = doors.there("deploy", "remove", "m", "site-lga", "--json")

    assert [one.returncode for one in (started, halted, followed, back, removed)] == [0] * 5, (started.stderr, halted.stderr, back.stderr)
    assert set(json.loads(started.stdout)) == {"command", "kind", "model", "state", "text"}
    assert json.loads(started.stdout)["state"] == "done"
    assert (
        (twice_there.returncode, code_of(twice_there)) == (twice_here.returncode, code_of(twice_here)) == (Exit.REFUSED, "rollout.invalid")
    )
    assert "choose one with --deployment" in ambiguous.stderr + approved.stderr


def test_labels_and_settings_are_set_over_the_api_as_in_the_folder(doors: Doors) -> None:
    here, there = doors.here("nodes", "label", "n1", "ring=one", "--json"), doors.there("nodes", "label", "n1", "ring=two", "--json")
    many = doors.there("nodes", "set", "--where", "site=jfk", "telemetry=off", "--yes")
    gone = doors.there("nodes", "forget", "n5", "--json")

    assert [one.returncode for one in (here, there, many, gone)] == [0] * 4, (there.stderr, many.stderr, gone.stderr)
    assert set(json.loads(there.stdout)) == set(json.loads(here.stdout))
    assert there.stderr == here.stderr
    assert json.loads(doors.here("nodes", "settings", "n1", "--json").stdout)["set"] == {"labels": {"ring": "two"}, "telemetry": False}
    assert json.loads(gone.stdout)["node"] == "n5"
    assert json.loads(doors.there("history", "--limit", "1", "--json").stdout)[0]["actor"] == "token:admin"


def test_a_release_is_published_over_the_api_by_the_team_that_holds_the_key(doors: Doors, tmp_path: Path) -> None:
    (tmp_path / "new.onnx").write_bytes(ridge(5.0))
    words = ("publish", str(tmp_path / "new.onnx"), "--name", "m", "--version", "5.0.0", "--json")
    team = doors.made.fleet / "keys" / "team.pem"
    keyless = doors.there(*words)
    done, again = doors.there(*words, "--team-key", str(team)), doors.here(*words)

    assert keyless.returncode == Exit.KEY, keyless.stderr
    assert done.returncode == 0, done.stderr
    assert again.returncode == 0, again.stderr  # The folder's own build is the same release.
    found, known = json.loads(done.stdout), json.loads(again.stdout)
    assert found["digest"] == known["digest"]
    assert set(found) == set(known)
    assert [row["version"] for row in json.loads(doors.there("releases", "m", "--json").stdout)][-1] == "5.0.0"


@pytest.mark.parametrize("words", ["keys", "ca list", "hub", "check m@1.0.0", "enroll list", "export m@1.0.0", "renew"])
def test_a_command_that_needs_the_folder_says_so_with_the_mend(doors: Doors, words: str) -> None:
    done = doors.there(*words.split())

    assert done.returncode == Exit.USAGE
    assert "needs the fleet's folder, and cannot be done over the API: run it on the hub's machine" in " ".join(done.stderr.split())


def test_what_cannot_be_reached_or_let_in_ends_with_a_sentence_and_its_code(doors: Doors, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("fct_wrong\n")
    refused = doors.there("models", token=wrong)
    gone = doors.there("models", url="http://127.0.0.1:9")
    absent = doors.there("models", token=tmp_path / "nowhere")
    plain = doors.there("models", url="http://hub.example:80")
    named = doors.there("rollout", "halt", "m", "--actor", "eve")

    assert (refused.returncode, code_of(refused)) == (Exit.REFUSED, "request.token")
    assert (gone.returncode, code_of(gone)) == (Exit.UNREACHABLE, "unreachable")
    assert (absent.returncode, code_of(absent)) == (Exit.REFUSED, "request.token")
    assert "readable on the way" in plain.stderr
    assert (named.returncode, "records the name of the token" in " ".join(named.stderr.split())) == (Exit.USAGE, True)
    assert not any("Traceback" in one.stderr for one in (refused, gone, absent, plain, named))


def test_reasons_that_people_gave_are_in_the_history(doors: Doors) -> None:
    store = opening.open_store(doors.made.fleet, "ada")
    store.add_event("rollout", "m was halted", {"model": "m", "why": "a recall of the sensor"})
    store.close()
    here, there = doors.both("history", "--limit", "3")

    assert "a recall of the sensor" in here.stdout
    assert here.stdout == there.stdout
    assert here.stdout.splitlines()[0].split() == ["at", "actor", "kind", "what", "why"]


def test_publishing_over_the_api_without_a_key_names_the_option(doors: Doors) -> None:
    done = doors.there("publish", str(doors.made.folder / "good.onnx"), "--name", "m", "--version", "7.0.0")

    assert (done.returncode, "name the team's key by --team-key or FLEETCAST_TEAM_KEY" in done.stderr) == (Exit.KEY, True), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--hub", "", "rollout", "halt", "m"),
        ("--hub", " ", "rollout", "halt", "m"),
        ("--token-file", "", "rollout", "halt", "m"),
        ("rollout", "halt", "m", "--deployment", ""),
        ("rollout", "halt", "m", "--dir", ""),
        ("rollout", "start", "m@1.0.0", "--where", ""),
        ("nodes", "label", "ring=all", "--where", "", "--yes"),
    ],
)
def test_an_empty_option_chooses_nothing_else_to_act_on(doors: Doors, words: tuple[str, ...]) -> None:
    before = doors.here("history", "--json").stdout
    done = in_process(*words, FLEETCAST_DIR=str(doors.made.fleet), FLEETCAST_HUB=doors.url, FLEETCAST_TOKEN_FILE=str(doors.token))

    assert (done.returncode, "empty, such as from a variable that is not set" in " ".join(done.stderr.split())) == (Exit.USAGE, True), (
        done.stderr
    )
    assert doors.here("history", "--json").stdout == before


def test_new_hardware_and_tokens_are_let_in_over_the_api(doors: Doors) -> None:
    first = doors.there("nodes", "replace", "n4", "--fingerprint", "AB:" * 31 + "ab", "--hours", "2", "--json")
    here = doors.here("nodes", "replace", "n4", "--fingerprint", "ab" * 32, "--hours", "2", "--json")
    made = doors.there("tokens", "make", "dashboards", "--role", "viewer", "--days", "3", "--json")
    revoked = doors.there("tokens", "revoke", "dashboards", "--json")

    assert [one.returncode for one in (first, here, made, revoked)] == [0] * 4, (first.stderr, made.stderr, revoked.stderr)
    there, known = json.loads(first.stdout), json.loads(here.stdout)
    assert {**there, "until": ""} == {**known, "until": ""}
    assert json.loads(made.stdout)["token"].startswith("fct_")
    assert (json.loads(revoked.stdout)["name"], json.loads(revoked.stdout)["state"]) == ("dashboards", "revoked")
    assert json.loads(doors.here("history", "--node", "n4", "--json").stdout)[-1]["actor"] == "token:admin"


def test_a_device_gets_its_token_over_the_api_as_from_the_folder(doors: Doors) -> None:
    words = ("enroll", "token", "--node", "n8", "--label", "site=jfk", "--cohort", "nyc", "--expires", "7d")
    here, there = doors.both(*words, "--json")
    many = [json.loads(one.stdout) for one in doors.both("enroll", "token", "--node", "many", "--count", "10", "--json")]
    store = Store(f"sqlite:///{doors.made.fleet / 'hub.sqlite'}")
    enrolments = Enrolments(store.database)
    waiting = enrolments.open_tokens()
    first, second = (json.loads(one.stdout) for one in (here, there))
    event = json.loads(doors.here("history", "--node", "n8", "--limit", "1", "--json").stdout)[0]
    history = json.dumps([one.body for one in store.events(0, 500)])

    assert (here.returncode, there.returncode, there.stderr) == (0, 0, here.stderr)
    assert "no hub will answer the device" in there.stderr
    assert set(second) == set(first) == {"node", "token", "expires", "command"}
    assert [[row["node"] for row in rows] for rows in many] == [[f"many-{number:02}" for number in range(1, 11)]] * 2
    assert [one.place for one in waiting if one.place.node == "n8"] == [Place("n8", "nyc", {"site": "jfk"})] * 2
    assert (event["actor"], second["token"] in history) == ("token:admin", False)
    certificate = CertificateRow("01", "n8", "client", int(time.time()) + 3600, b"issued")
    assert enrolments.redeem(Token.parse(second["token"]).digest, Place("n8", "nyc", {"site": "jfk"}), b"key of n8", certificate)
    taken = doors.both("enroll", "token", "--node", "n8")
    replaced = doors.there("enroll", "token", "--node", "n8", "--replace")
    assert [one.returncode for one in (*taken, replaced)] == [Exit.CONFLICT, Exit.CONFLICT, 0], taken[1].stderr
    assert (taken[1].stderr, "use --replace" in taken[1].stderr) == (taken[0].stderr, True)
    store.close()


def test_a_blueprint_is_compared_and_applied_over_the_api(doors: Doors, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(doors.there("blueprint").stdout)
    assert file.read_text() == doors.here("blueprint").stdout
    same = doors.there("diff", str(file))
    file.write_text(file.read_text().replace("where: node=n3", "where: node=n2"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("models:\n  m:\n    deployments: 7\n  n: {}\nnope: 1\n")

    shown = doors.both("diff", str(file))
    as_json = doors.both("diff", str(file), "--json")
    wrong = doors.both("diff", str(broken))
    unasked = doors.there("apply", str(file))
    applied = doors.there("apply", str(file), "--auto-approve")
    again = doors.there("apply", str(file), "--auto-approve", "--json")

    assert (same.returncode, "There is no difference." in same.stdout) == (0, True)
    assert [one.returncode for one in (*shown, *as_json, unasked)] == [Exit.USAGE] * 5, shown[1].stderr
    assert shown[0].stdout == shown[1].stdout
    assert json.loads(as_json[0].stdout) == json.loads(as_json[1].stdout)
    assert (wrong[0].returncode, wrong[0].stderr) == (wrong[1].returncode, wrong[1].stderr)
    assert "give --auto-approve" in unasked.stderr
    assert applied.returncode == 0, applied.stderr
    assert "1 of 1: " in applied.stderr
    assert applied.stdout == "Revision 1 is in force; 1 change made.\n"
    assert json.loads(again.stdout)["changes"] == []
    (revision,) = json.loads(doors.there("history", "--blueprint", "--json").stdout)
    assert (revision["actor"], revision["state"], revision["changes"]) == ("token:admin", "applied", "1 of 1")
    assert doors.there("blueprint", "--revision", "1").stdout == file.read_text()
    assert "the fleet is as it says" in doors.there("status").stdout
    check_that_what_was_seen_is_applied_or_nothing(doors)  # In this order: the revisions are of one fleet.


def check_that_what_was_seen_is_applied_or_nothing(doors: Doors) -> None:
    with HubClient(place_of(doors.url, token_file=doors.token)) as hub:
        text = hub.blueprint_text().replace("priority: 90", "priority: 80").encode()
        row = hub.blueprint_diff(text)
        with pytest.raises(Refused) as refused:
            hub.apply_blueprint(text, seen="0" * 64)
        assert refused.value.code == Code.REQUEST_STALE
        assert hub.blueprint_diff(text) == row
        told: list[str] = []
        done = hub.apply_blueprint(text, seen=row["seen"], report=lambda one: told.append(one["text"]))
        assert (done["state"], done["changes"], len(told)) == ("applied", 1, 1)
        text = hub.blueprint_text().replace("priority: 80", "priority: 70").encode()
        newest = hub.apply_blueprint(text)
        assert newest["revision"] == done["revision"] + 1
        back = doors.here("apply", "--revision", str(done["revision"]), "--auto-approve")  # Its text is based on one before.
        again = doors.there("apply", "--revision", str(newest["revision"]), "--auto-approve", "--json")
        assert (back.returncode, again.returncode) == (0, 0), back.stderr + again.stderr
        assert f"revision {newest['revision']} again" in doors.there("history", "--blueprint").stdout
        with pytest.raises(Refused, match="nothing is known of an apply"):
            hub.connection.request("GET", "/blueprint/applications/0000000000000000")


def test_releases_and_models_are_removed_over_the_api_by_those_who_hold_the_keys(unused: Asked, tmp_path: Path) -> None:
    with served(copied(unused, tmp_path / "made")) as asked:
        token = tmp_path / "token"
        token.write_text(asked.tokens["admin"])
        doors, keys = Doors(asked.made, str(asked.client.base_url), token), asked.made.fleet / "keys"
        team, targets = ("--team-key", str(keys / "team.pem")), ("--targets-key", str(keys / "targets.pem"))
        keyless = doors.there("releases", "remove", "m@1.0.0", "--yes")
        unasked = doors.there("releases", "remove", "m@1.0.0", *team)
        wrong = doors.there("releases", "remove", "m@1.0.0", "--yes", "--team-key", str(keys / "targets.pem"))
        done = doors.there("releases", "remove", "m@1.0.0", "--yes", "--json", *team)
        again = doors.there("releases", "remove", "m@1.0.0", "--yes", "--json", *team)  # As after one that was cut off.
        model = doors.there("models", "remove", "m", "--yes", "--json", *targets)

        assert (keyless.returncode, unasked.returncode, wrong.returncode) == (Exit.USAGE, Exit.REFUSED, Exit.KEY), wrong.stderr
        assert "Remove m@1.0.0 for good?" in unasked.stderr
        assert (done.returncode, again.returncode, model.returncode) == (0, 0, 0), (done.stderr, again.stderr, model.stderr)
        assert json.loads(done.stdout)["freed_bytes"] == 0  # The other release has the same content.
        assert json.loads(again.stdout)["freed_bytes"] == 0
        assert (json.loads(model.stdout)["releases"], json.loads(model.stdout)["freed_bytes"] > 0) == (2, True)
        assert json.loads(doors.here("models", "--json").stdout) == []
        assert json.loads(doors.here("history", "--limit", "1", "--json").stdout)[0]["actor"] == "token:admin"


class Cut:
    """A proxy before the hub, which loses answers by the method and path of the request."""

    def __init__(self, url: str) -> None:
        self.cuts: Callable[[str, str], bool] = lambda method, path: False
        self.asked: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                asked = self.command, self.path.partition("?")[0].removeprefix("/api/v1")
                proxy.asked.append(asked)
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                answer = httpx.request(self.command, url + self.path, headers=dict(self.headers), content=body, timeout=60)
                self.close_connection = True
                if proxy.cuts(*asked):
                    return
                self.send_response(answer.status_code)
                for name in ("content-type", "content-length", "etag"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = _pass_on

            def log_message(self, format: str, *given: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def cut(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cut]:
    for place in ("hub.client.connection", "hub.cli.patience"):
        monkeypatch.setattr(f"{place}.BACKOFF", Backoff(0.01, 0.02))
    monkeypatch.setattr("hub.cli.rollout_start.REMOTE_LOOK_SECONDS", 0.05)
    monkeypatch.setattr("hub.cli.watch.REMOTE_LOOK_SECONDS", 0.05)
    monkeypatch.setattr("fleetcast.cli.list_choice.WATCH_SECONDS", 0.05)
    found = Cut(doors.url)
    yield found
    found.close()


def test_a_hub_that_restarts_ends_no_rollout_that_is_waited_for(doors: Doors, cut: Cut) -> None:
    """The first answers are lost: to the start itself, which is done once, and then to looks. The rollout is halted by somebody else."""

    def cuts(method: str, path: str) -> bool:
        looks = cut.asked.count(("GET", "/rollouts"))
        if looks == 10:
            with HubClient(place_of(doors.url, token_file=doors.token)) as hub:
                hub.act("halt", "m", "again")
        return cut.asked.count(("POST", "/rollouts")) < 6 if method == "POST" else 1 < looks < 9

    cut.cuts = cuts
    words = ("rollout", "start", "m@1.0.0", "--deployment", "again", "--where", "site=lga", "--wait")
    done = doors.there(*words, url=cut.url)
    begun = [row for row in json.loads(doors.here("history", "--json").stdout) if row["what"].startswith("m@1.0.0") and "again" in str(row)]

    assert (done.returncode, "is halted" in done.stderr) == (Exit.HALTED, True), done.stderr
    assert done.stderr.count("Waiting for an answer: ") == done.stderr.count("It answers again.") == 2, done.stderr
    assert "The rollout goes on without this command." in done.stderr
    assert cut.asked.count(("POST", "/rollouts")) == 6
    assert len([row for row in begun if row["actor"] == "token:admin"]) <= 2, begun  # It has begun once, and was halted once.


def test_a_hub_that_does_not_come_back_leaves_word_of_the_rollout(doors: Doors, cut: Cut) -> None:
    cut.cuts = lambda method, path: (method, path) == ("GET", "/rollouts")
    words = ("rollout", "start", "m@1.0.0", "--deployment", "last", "--where", "site=lga", "--wait", "--timeout-seconds", "2")
    done = doors.there(*words, url=cut.url)

    assert done.returncode == Exit.TIMEOUT, done.stderr
    assert "the rollout of m@1.0.0 goes on, and `fleetcast rollout status m` shows it" in done.stderr


def test_a_hub_that_restarts_ends_no_watch_and_no_event_is_missed(doors: Doors, cut: Cut) -> None:
    def cuts(method: str, path: str) -> bool:
        looks = cut.asked.count(("GET", "/events"))
        if looks == 4:
            with HubClient(place_of(doors.url, token_file=doors.token)) as hub:
                hub.start_rollout({"model": "m", "version": "1.0.0", "deployment": "meanwhile", "where": "site=lga"})
        return 1 < looks < 9

    cut.cuts = cuts
    done = doors.there("watch", "--until", "rollout", "--timeout-seconds", "60", url=cut.url)

    assert done.returncode == 0, done.stderr
    assert "deployment meanwhile" in done.stdout
    assert (done.stderr.count("Waiting for an answer: "), done.stderr.count("It answers again.")) == (1, 1), done.stderr
