"""Pages that show: exact sentences, links to exactly the rows that are counted, what strangers wrote, and requests that make no sense."""

import re
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from hub.core.drift.compare import Bin, Comparison
from hub.core.drift.shift_size import NOTHING
from hub.database.rows import NodeRow
from hub.database.troubles import Trouble, Troubles
from hub.operations.drift_effect import effects
from hub.operations.snapshot import Snapshots
from hub.web.application import application
from hub.web.console import rendering
from hub.web.console.shared import Shared
from hub.web.guard import LOOPBACK_NAMES, Door
from schemas import codec
from schemas.analytics_messages import Alert
from schemas.limits import FINDING_TEXT_MAX
from schemas.state import Finding, Profile, SettingsInForce, State, TelemetryBudget
from tests.hub.web.conftest import unused  # noqa: F401  # a fixture
from tests.hub.web.console.people import Person, heading, text_of
from tests.hub.web.fleets import Asked, copied

SignIn = Callable[[str], Person]
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"
TEMPLATES = sorted((Path(rendering.__file__).parent / "templates").glob("*.html"))
PATHS = ("/models", "/models/m", "/models/m/releases/1.1.0", "/nodes", "/nodes/n0", "/drift", "/bytes", "/alerts", "/audit")


@pytest.fixture(scope="module")
def reader(unused: Asked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:  # noqa: F811
    """A viewer of a fleet that no test changes."""
    own = Door(copied(unused, tmp_path_factory.mktemp("read") / "made").fleet, LOOPBACK_NAMES)
    with TestClient(application(own), base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False) as client:
        yield Person.signed_in(client, unused.tokens["viewer"])


def report(door: Door, name: str, **more: Any) -> None:
    profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels=more.pop("labels", {"site": "jfk"}))
    state = State(node=name, session=2, status="online", at=int(time.time()), profile=profile, **more)
    door.fleet.store.upsert_nodes([NodeRow(name, 2, "online", state.at, codec.encode(state), b"", "default")])


def rows_of(page: str) -> list[str]:
    return re.findall(r'<tr id="node-([^"]+)"', page)


def facet(page: str, value: str) -> tuple[str, int]:
    found = re.search(rf'<a href="([^"]+)"[^>]*><b>(?:<i[^>]*></i>)?{value}</b><span>([\d,]+)</span>', page)
    assert found, page
    return unescape(found[1]), int(found[2])


@pytest.mark.parametrize("path", PATHS)
def test_a_page_has_a_sentence_its_command_and_no_style_or_script_of_its_own(reader: Person, path: str) -> None:
    answer = reader.get(path)

    assert answer.status_code == 200, answer.text
    assert heading(answer.text)
    assert "<code>fleetcast " in answer.text[answer.text.index("<footer") :]
    assert not re.search(r' style=|<script[^>]*>[^<]|\son\w+="|javascript:|https?://', answer.text)
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert len(answer.content) < 100 * 1024


def test_nodes_are_counted_by_what_they_have_in_common_and_each_number_leads_to_its_rows(reader: Person) -> None:
    every = reader.page("/nodes")
    address, count = facet(every, "jfk")
    jfk = reader.page(address)

    assert heading(every) == "6 nodes, none refused or unreachable"
    assert "For 6 no deployment decides." in text_of(every)
    undecided = re.search(r'href="([^"]+)">For 6 no deployment decides', every)
    assert undecided is not None
    assert len(rows_of(reader.page(unescape(undecided[1])))) == 6
    assert rows_of(jfk) == ["n0", "n1"]
    assert count == 2
    assert heading(jfk) == "2 of 6 nodes match"
    assert facet(jfk, "lga") == ("/nodes?where=site%3Dlga", 4)
    assert rows_of(reader.page("/nodes?where=site%3Dlga")) == ["n2", "n3", "n4", "n5"]


def test_a_list_of_nodes_is_cut_by_cursors_and_leads_back(sign_in: SignIn, door: Door) -> None:
    person = sign_in("viewer")
    for number in range(6, 45):
        report(door, f"n{number:02}")
    first = person.page("/nodes?limit=20&sort=node")
    second = person.page(unescape(re.search(r'href="([^"]+)" rel="next"', first)[1]))  # type: ignore[index]
    third = person.page(unescape(re.search(r'href="([^"]+)" rel="next"', second)[1]))  # type: ignore[index]
    back = person.page(unescape(re.search(r'href="([^"]+)" rel="prev"', third)[1]))  # type: ignore[index]

    assert [len(rows_of(one)) for one in (first, second, third)] == [20, 20, 5]
    assert len({*rows_of(first), *rows_of(second), *rows_of(third)}) == 45
    assert rows_of(back) == rows_of(second)
    assert "21 to 40 of 45" in text_of(second)
    assert 'rel="next"' not in third


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nodes?where=siet%3Djfk", 422, "No node has a label siet. Did you mean site?"),
        ("/nodes?where=state%3Drefusd", 422, "Did you mean refused?"),
        ("/nodes?where=%28%28", 422, "selector"),
        ("/nodes?where=" + "a" * 5000, 422, "4096"),
        ("/nodes?cursor=x", 422, "begin without one"),
        ("/nodes?cursor=" + "A" * 500, 422, "begin without one"),
        ("/nodes?cursor=WyJub2RlIiwwLCJuMCJd", 422, "in the order"),
        ("/nodes?limit=1000000", 422, "Limit is one of 20, 50, 100, 200"),
        ("/nodes?sort=bytes", 422, "none of"),
        ("/nodes?waits=rain", 422, "nodes wait for one of"),
        ("/nodes?wher=x", 422, "there is no parameter"),
        ("/nodes?where=a&where=b", 422, "is there twice"),
        ("/nodes/jfk-144", 404, "No node jfk-144. It may have been forgotten: audit."),
        ("/models/nope", 404, "there is no model"),
        ("/models/m/releases/9.9.9", 404, "No release m 9.9.9"),
        ("/drift/m/1.1.0/nyc", 404, "1.1.0 watches no signals: it was published without --reference"),
        ("/drift/m/9.9.9/nyc", 404, "No stream m 9.9.9 nyc is tested"),
        ("/bytes?day=2026-02-30", 422, "a past day"),
        ("/bytes?day=2999-01-01", 422, "a past day"),
        ("/bytes?by=weather", 422, "By is one of"),
        ("/alerts?state=loud", 422, "State is one of"),
        ("/alerts?cursor=%F0%9F%92%A9", 422, "begin without one"),
        ("/audit?cursor=W10", 422, "begin without one"),
        ("/audit?actor=" + "x" * 65, 422, "printable"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_a_page_with_a_sentence(reader: Person, path: str, status: int, words: str) -> None:
    answer = reader.get(path)

    assert answer.status_code == status, answer.text
    assert words.lower() in text_of(answer.text).lower()
    assert answer.headers["cache-control"] == "no-store"
    assert rows_of(answer.text) == []


def test_a_selector_that_matches_nobody_says_what_is_near(reader: Person) -> None:
    page = reader.page("/nodes?where=site%3Djkf")

    assert "No node matches site=jkf. 2 match site=jfk." in text_of(page)
    assert '<a href="/nodes?where=site%3Djfk">site=jfk</a>' in page


def test_words_of_strangers_are_escaped_written_out_and_cut(sign_in: SignIn, door: Door) -> None:
    settings = SettingsInForce(serial=1, display_name=HOSTILE.replace("\x1b[31m\u202e", "") + "y" * 20)
    report(
        door,
        "n0",
        settings=settings,
        findings=(Finding(kind="site", code="settings.invalid", reason=(HOSTILE + "x" * 400)[:FINDING_TEXT_MAX]),),
    )
    door.fleet.store.add_alert(Alert(kind="refused", at=int(time.time()), node="n0", code="model.too_slow", text=HOSTILE + "z" * 400))
    door.fleet.store.add_event("rollout", HOSTILE + "w" * 400, {"model": "m", "why": HOSTILE}, actor="me<b>")
    person = sign_in("viewer")
    pages = {path: person.page(path) for path in ("/nodes", "/nodes/n0", "/alerts", "/audit", "/")}

    for path, page in pages.items():
        assert "<script>alert" not in page, path
        assert not any(one in page for one in ("\x1b", "\u202e")), path
        assert not any(letter * 200 in page for letter in "xzw"), path
    assert "&lt;script&gt;alert(1)" in pages["/alerts"]
    assert "\\x1b[31m\\u202e" in pages["/audit"]
    assert "me&lt;b&gt;" in pages["/audit"]


def sources(page: str) -> dict[str, str]:
    """Whose word each setting in force is."""
    table = page[page.index("Settings in force") :]
    rows = re.findall(r"<tr><td>([^<]*)<td[^>]*>(.*?)<td[^>]*>(.*?)\n", table[: table.index("</table>")])
    return {name: re.sub(r"<[^>]+>", "", source).strip() for name, _, source in rows}


def test_a_setting_that_no_file_names_is_as_usual(sign_in: SignIn, door: Door) -> None:
    report(door, "n0", labels={}, telemetry=TelemetryBudget(rho_spent=0, rho_day_max=1))
    report(door, "n1", cohort="nyc", report_seconds=10)
    person = sign_in("viewer")
    usual, own = sources(person.page("/nodes/n0")), sources(person.page("/nodes/n1"))

    assert usual == dict.fromkeys(("labels", "cohort", "telemetry", "reports"), "as usual")
    assert own == {**dict.fromkeys(("labels", "cohort", "telemetry"), "file of its site"), "reports": "its own report"}


@pytest.mark.parametrize("hostile", ["' OR 1=1 --", HOSTILE, "=cmd|' /C calc'!A0", "../../etc/passwd", "%00", "x" * 3000])
def test_addresses_that_strangers_made_up_are_answered_in_words(reader: Person, hostile: str) -> None:
    for path in (
        "/nodes/{}",
        "/models/{}",
        "/models/m/releases/{}",
        "/drift/m/1.0.0/{}",
        "/nodes?where={}",
        "/audit?node={}",
        "/nodes?serves={}",
    ):
        answer = reader.get(path.format(quote(hostile, safe="")))
        assert answer.status_code in {200, 404, 422}, (path, answer.status_code)
        assert "<script>alert" not in answer.text
        assert "\x1b" not in answer.text


def test_an_empty_fleet_says_how_to_begin(sign_in: SignIn, door: Door) -> None:
    with door.fleet.store.database.write() as db:
        db.exec_driver_sql("DELETE FROM nodes")
    page = sign_in("viewer").page("/nodes")

    assert heading(page) == "No node has joined"
    said = "No node has joined. Make a token with fleetcast enroll token --node gateway-17, and it appears here"
    assert f"{said} within a second of its first word." in text_of(page)


def test_the_first_page_and_alerts_say_what_is_wrong_with_the_hub(sign_in: SignIn, door: Door) -> None:
    now, text = int(time.time()), "the hub cannot sign rollouts any more: copy online/rollouts.pem"
    Troubles(door.fleet.store.database).replace("hub", [Trouble("hub", "key.not_authorised", "rollouts", now - 90, text)])
    door.fleet.store.add_alert(Alert(kind="refused", at=now - 90, code="key.not_authorised", text=text))
    person = sign_in("viewer")
    first, alerts = person.page("/"), person.page("/alerts?state=open")

    assert "the hub has trouble" in heading(first)
    assert "the hub has trouble" in first[: first.index("</title>")]
    assert f"{text} key.not_authorised" in text_of(first)
    assert text_of(alerts).count(text) == 2  # what is open, and the alert about it


def test_alerts_say_what_is_open_and_that_nothing_is(sign_in: SignIn, door: Door) -> None:
    now = int(time.time())
    door.fleet.store.add_alert(Alert(kind="refused", at=now - 90, node="n0", code="model.too_slow", text="n0 refused m 1.1.0"))
    page = sign_in("viewer").page("/alerts")

    assert heading(page) == "Nothing is open. 1 alert ended in the last 7 days."
    assert '<a href="/nodes/n0">n0 refused m 1.1.0</a>' in page
    assert "No alert is open." in text_of(sign_in("viewer").page("/alerts?state=open"))


def test_changes_are_found_by_their_actor_and_paged(sign_in: SignIn, door: Door) -> None:
    for number in range(25):
        door.fleet.store.add_event("rollout", f"change {number}", {"model": "m"}, actor="d.lind")
    person = sign_in("viewer")
    first = person.page("/audit?actor=d.lind&limit=20")
    rest = person.page(unescape(re.search(r'href="([^"]+)" rel="next"', first)[1]))  # type: ignore[index]

    assert first.count('<tr id="change-') == 20
    assert rest.count('<tr id="change-') == 5
    assert "fleetcast history --where actor=d.lind" in text_of(first)
    assert 'href="/audit?actor=d.lind"' in first


def test_the_effect_on_answers_has_a_whisker_and_is_none_within_chance() -> None:
    bins = (Bin("no", 0.959, 0.937, 0.0045), Bin("yes", 0.041, 0.063, 0.0045))
    calm = (Bin("no", 0.959, 0.955, 0.0045), Bin("yes", 0.041, 0.045, 0.0045))
    found = effects(
        (Comparison("defect", "categorical", bins, NOTHING), Comparison("calm", "categorical", calm, NOTHING)), rows=11_400, seconds=86_400
    )

    assert [(one.signal, one.answer, one.more_a_day) for one in found] == [("defect", "yes", 251)]
    assert found[0].whisker == pytest.approx(0.009)


def test_a_region_has_nothing_beside_its_block_that_an_update_would_take_away() -> None:
    found = [(page.name, page.read_text(), one) for page in TEMPLATES for one in re.finditer(r'data-live="(\w+)"[^>]*>', page.read_text())]

    assert len(found) > 10
    for name, text, one in found:
        assert text[one.end() :].startswith(f"{{% block live_{one[1]} %}}"), (name, one[1])


def test_what_viewers_choose_does_not_fill_the_memory() -> None:
    shared = Shared(Snapshots())
    for number in range(100):
        assert shared.get(("nodes", number), lambda: number, seconds=60, at_most=16) == number  # noqa: B023  # called at once
    read = list[int]()
    shared.get(("nodes", 99), lambda: read.append(99), seconds=60, at_most=16)
    shared.get(("nodes", 83), lambda: read.append(83), seconds=60, at_most=16)

    assert read == [83]
    assert len(shared._kept) == len(shared._reading) == 16


@pytest.mark.parametrize("where", ["foo==", "siet=jfk", "(("])
def test_a_selector_that_is_none_stays_in_its_field(reader: Person, where: str) -> None:
    answer = reader.get(f"/nodes?where={quote(where)}")

    assert answer.status_code == 422
    assert f'value="{where}"' in answer.text
    assert 'role="search"' in answer.text
    assert rows_of(answer.text) == []
    assert heading(answer.text)[0].isupper()
