"""Who may see and do what in the console: signing in and out, forms of other sites, roles, headers."""

import re
import time
from collections.abc import Callable
from html import unescape

import pytest
from sqlalchemy import select, update

from hub.database import tables
from hub.operations import api_tokens, console_sessions
from hub.web.console import forms, live
from hub.web.console.pages import PAGES
from hub.web.guard import Door
from tests.hub.web.console.people import ORIGIN, Person, heading, hidden, text_of

SignIn = Callable[[str], Person]
PLAIN = [page.path for page in PAGES if "{" not in page.path]


def test_a_token_signs_in_once_and_the_cookie_is_kept_from_scripts_and_other_sites(sign_in: SignIn, door: Door) -> None:
    person = sign_in("operator")
    cookie = person.client.cookies["fleetcast"]
    answer = person.client.post("/login", data={"token": "fct_x", "next": "/"}, headers=ORIGIN)

    assert person.get("/").status_code == 200
    assert len(cookie) >= 43
    with door.fleet.store.database.read() as db:
        kept = db.execute(tables.console_sessions.select()).mappings().one()
    assert cookie.encode() not in kept["digest"]
    assert answer.status_code == 401
    assert "unknown, expired or revoked" in answer.text


def test_the_cookie_is_strict_and_has_the_prefix_where_there_is_tls(sign_in: SignIn, unused: object, door: Door) -> None:
    person = sign_in("viewer")
    token = api_tokens.make(door.fleet, name="x", role="viewer", days=1)[1]
    plain = person.send("/login", {"token": token, "next": "/"}).headers["set-cookie"]
    tls = person.client.post("https://localhost/login", data={"token": token}, headers={"origin": "https://localhost"}).headers[
        "set-cookie"
    ]

    assert re.fullmatch(r"fleetcast=[\w-]{43}; HttpOnly; Path=/; SameSite=strict", plain)
    assert re.fullmatch(r"__Host-fleetcast=[\w-]{43}; HttpOnly; Path=/; SameSite=strict; Secure", tls)


def test_a_link_signs_in_once(sign_in: SignIn, door: Door) -> None:
    person = sign_in("viewer")
    secret = console_sessions.make_link(door.fleet, name="root")
    person.client.cookies.clear()
    asked = person.page(f"/login?once={secret}")
    first = person.send("/login", hidden(asked))
    name = person.page("/logout")
    second = person.send("/login", {"once": secret, "next": "/"})
    again = person.page(f"/login?once={secret}")

    assert "Sign in as root, admin?" in asked
    assert first.status_code == 303
    assert "You are root, admin" in name
    assert second.status_code == 401
    assert "This link was used, or its quarter of an hour is over" in again


def test_a_link_is_worth_nothing_after_its_time(sign_in: SignIn, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_sessions, "LINK_SECONDS", 0)
    secret = console_sessions.make_link(door.fleet, name="root")

    assert sign_in("viewer").send("/login", {"once": secret}).status_code == 401


def test_who_is_not_signed_in_signs_in_and_comes_back(sign_in: SignIn) -> None:
    person = sign_in("viewer")
    person.client.cookies.clear()
    answer = person.get("/keys?wall=1")

    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=%2Fkeys%3Fwall%3D1")
    assert hidden(person.page(answer.headers["location"]))["next"] == "/keys?wall=1"


def test_nobody_is_led_elsewhere_after_signing_in(sign_in: SignIn, door: Door) -> None:
    person, token = sign_in("viewer"), api_tokens.make(door.fleet, name="x", role="viewer", days=1)[1]
    for address in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "/login", "\t//x", "/\t/x"):
        assert person.send("/login", {"token": token, "next": address}).headers["location"] == "/", address


def test_a_link_from_another_site_leads_on_from_a_page_of_ours(sign_in: SignIn) -> None:
    person = sign_in("viewer")
    person.client.cookies.clear()
    bounced = person.get("/login?next=/nodes", headers={"sec-fetch-site": "cross-site"})

    assert '<meta http-equiv="refresh" content="0; url=/nodes">' in bounced.text


@pytest.mark.parametrize(("column", "seconds"), [("used_at", console_sessions.IDLE_SECONDS), ("made_at", console_sessions.SESSION_SECONDS)])
def test_a_session_ends_when_it_is_idle_or_old(sign_in: SignIn, door: Door, column: str, seconds: int) -> None:
    person, now = sign_in("viewer"), int(time.time())
    with door.fleet.store.database.write() as db:
        db.execute(update(tables.console_sessions).values({column: now - seconds - 60}))
    answer = person.get("/")

    assert answer.status_code == 303
    assert "You were signed out at" in person.page(answer.headers["location"])


def test_a_page_that_loads_itself_anew_keeps_no_session_open(sign_in: SignIn, door: Door) -> None:
    person, then = sign_in("viewer"), int(time.time()) - 600

    def used_at() -> int:
        with door.fleet.store.database.read() as db:
            return int(db.execute(select(tables.console_sessions.c.used_at)).scalar_one())

    with door.fleet.store.database.write() as db:
        db.execute(update(tables.console_sessions).values(used_at=then, looked_at=then))
    assert person.get("/", headers={"x-fleetcast-look": "no"}).status_code == 200
    assert used_at() == then
    assert person.get("/").status_code == 200
    assert used_at() > then


def test_a_page_for_which_there_is_no_room_is_told_so(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    person = sign_in("viewer")
    monkeypatch.setattr(live, "STREAMS_MAX", 0)
    answer = person.get("/live", params={"page": "/", "regions": "head"})

    assert answer.status_code == 429
    assert "0 pages are followed, and no more may be" in text_of(answer.text)
    assert person.get("/").status_code == 200  # The page itself is there, and its script loads it anew.


def test_pages_leave_connections_of_the_port_for_requests(sign_in: SignIn, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    person = sign_in("viewer")
    monkeypatch.setattr(door.places, "_connections_max", lambda: 16)
    door.places.taken.update({"page": 10, "api": 4})
    answer = person.get("/live", params={"page": "/", "regions": "head"})
    door.places.taken["api"] -= 1

    assert answer.status_code == 429
    assert answer.headers["connection"] == "close"  # Waiting for the next request, it would cost a page its connection.
    assert "10 pages are followed, and this hub may open too few files for more" in text_of(answer.text)
    door.places.check("page", 1000)  # A place is free again.
    door.places.taken["page"] = 0
    assert "connection" not in person.get("/").headers


def test_a_session_ends_with_its_token(sign_in: SignIn, door: Door) -> None:
    person = sign_in("viewer")
    api_tokens.revoke(door.fleet, "viewer")

    assert person.get("/").status_code == 303


def test_who_signs_out_is_signed_out(sign_in: SignIn, door: Door) -> None:
    person = sign_in("viewer")
    cookie = person.client.cookies["fleetcast"]
    answer = person.answer("/logout")
    person.client.cookies.set("fleetcast", cookie)

    assert answer.status_code == 303
    assert console_sessions.find(door.fleet, cookie, looks=False) is None


def test_an_address_that_guesses_is_slowed_down_and_good_secrets_are_not(sign_in: SignIn, door: Door) -> None:
    person = sign_in("viewer")
    token = api_tokens.make(door.fleet, name="shift", role="viewer", days=1)[1]
    once = console_sessions.make_link(door.fleet, name="root")
    answers = [person.send("/login", {"token": f"fct_{number}"}).status_code for number in range(21)]
    late = person.send("/login", {"token": "fct_x"})

    assert answers == [401] * 20 + [429]
    assert int(late.headers["retry-after"]) > 0
    assert person.get("/").status_code == 200  # Who is signed in already goes on.
    signed_in = [person.send("/login", fields) for fields in ({"once": once}, {"token": token}, {"once": once})]
    assert [one.status_code for one in signed_in] == [303, 303, 429]  # A link that was used is as wrong as any.


def test_a_form_of_another_site_is_not_read(sign_in: SignIn) -> None:
    person = sign_in("admin")
    fields = {**hidden(person.page("/keys/make")), "token_name": "evil", "role": "admin", "days": "1"}
    others = {"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}
    answers = [person.client.post("/keys/make", data=fields, headers=headers).status_code for headers in others]

    assert answers == [421] * 4
    assert "evil" not in person.page("/keys")


def test_a_form_needs_the_token_of_its_session_and_of_what_it_does(sign_in: SignIn) -> None:
    admin, other = sign_in("admin"), sign_in("admin")
    fields = {"token_name": "evil", "role": "admin", "days": "1"}
    of_other = forms.token_of(other.client.cookies["fleetcast"], "/keys/make")
    of_another_form = forms.token_of(admin.client.cookies["fleetcast"], "/logout")

    for token in ("", "x", "é", of_other, of_another_form):
        answer = admin.send("/keys/make", {**fields, "csrf": token})
        assert answer.status_code == 421
        assert "load the page again" in answer.text.lower()
        assert "allowed_" not in answer.text
    assert "evil" not in admin.page("/keys")


def test_a_role_sees_what_it_needs_and_nothing_is_done_without_it(sign_in: SignIn) -> None:
    viewer = sign_in("viewer")
    answer = viewer.send("/keys/make", {"csrf": forms.token_of(viewer.client.cookies["fleetcast"], "/keys/make"), "token_name": "x"})

    assert (answer.status_code, viewer.get("/keys").status_code) == (403, 403)
    assert re.fullmatch(r"Making a token needs the role admin\. You are viewer until \d+ \w+\.", heading(answer.text))


def test_tokens_are_made_shown_once_and_revoked(sign_in: SignIn, door: Door) -> None:
    admin = sign_in("admin")
    made = admin.answer("/keys/make", token_name="board", role="viewer", days="30")
    token = re.search(r"fct_[\w-]+", made.text)
    row = next(one for one in api_tokens.rows(door.fleet) if one["name"] == "board")
    page = admin.page("/keys")
    revoked = admin.answer(f"/keys/{row['id']}/revoke", why="not needed")

    assert token is not None
    assert api_tokens.find(door.fleet, token[0]) is None
    assert row["made_by"] == "token:admin"
    assert "board" in page
    assert (revoked.status_code, revoked.headers["location"]) == (303, "/keys")
    assert "No such" not in text_of(admin.page("/keys"))


def test_a_token_that_cannot_be_made_is_refused(sign_in: SignIn) -> None:
    admin = sign_in("admin")
    for wrong in (
        {"role": "root"},
        {"days": "0"},
        {"days": "9999"},
        {"days": "x"},
        {"token_name": ""},
        {"token_name": "a\nb"},
        {"token_name": "<b>board</b>"},
    ):
        assert admin.answer("/keys/make", **{"token_name": "x", "role": "viewer", "days": "1", **wrong}).status_code == 422, wrong


def test_a_form_that_is_none_is_refused(sign_in: SignIn) -> None:
    admin, kind = sign_in("admin"), "application/x-www-form-urlencoded"
    for body, sent_as, status in (
        (b"a=1&a=2", kind, 422),
        (b"a=" + b"x" * 17_000, kind, 413),
        (b"&".join(b"f%d=1" % number for number in range(forms.FIELDS_MAX + 1)), kind, 422),
        (b"\xff=1", kind, 422),
        (b"a=%ff", kind, 422),
        (b"{}", "application/json", 415),
    ):
        answer = admin.client.post("/keys/make", content=body, headers={**ORIGIN, "content-type": sent_as})
        assert answer.status_code == status, body[:20]


def test_every_answer_has_the_headers_that_keep_pages_private(sign_in: SignIn) -> None:
    person = sign_in("admin")
    for path in (*PLAIN, "/keys/make", "/nowhere", "/login", "/logout", "/?x=1"):
        headers = person.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';")
        assert "frame-ancestors 'none'; require-trusted-types-for 'script'" in headers["content-security-policy"]
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
        assert (headers["cross-origin-opener-policy"], headers["referrer-policy"]) == ("same-origin", "same-origin")


def test_assets_are_kept_for_a_year_under_an_address_of_their_content(sign_in: SignIn) -> None:
    person = sign_in("viewer")
    addresses = re.findall(r'(?:href|src)="(/[\w.-]+\?[0-9a-f]{12})"', person.page("/"))

    assert {one.partition("?")[0] for one in addresses} == {"/console.css", "/console.js", "/icon-well.svg"}
    for address in addresses:
        assert "immutable" in person.get(address).headers["cache-control"]
    assert person.get("/console.css?of-another-version").headers["cache-control"] == "no-cache"


def test_pages_run_nothing_that_is_written_in_them_and_load_nothing_from_elsewhere(sign_in: SignIn) -> None:
    person = sign_in("admin")
    for path in (*PLAIN, "/keys/make", "/nowhere", "/login", "/logout"):
        page = person.get(path).text
        assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", page), path
        assert not re.search(r"<script[^>]*>[^<]", page), path
        assert not re.search(r"""(?:href|src|action)=["']?(?:https?:)?//""", page), path
        assert len(page) < 100 * 1024


def test_a_parameter_that_a_page_has_not_is_refused(sign_in: SignIn) -> None:
    person = sign_in("viewer")

    assert [person.get(path).status_code for path in ("/?x=1", "/?wall=1&wall=1")] == [422, 422]


def test_a_page_that_there_is_not_is_a_page(sign_in: SignIn) -> None:
    answer = sign_in("viewer").get("/nowhere")

    assert (answer.status_code, heading(answer.text)) == (404, "There is no such page.")


@pytest.mark.parametrize("path", ["/models/nope", "/bytes?by=weather", "/?x=1", "/models/m/releases/1.0.0/start?where=%28"])
def test_a_refusal_is_titled_by_its_sentence_and_not_by_its_code(sign_in: SignIn, path: str) -> None:
    page = sign_in("operator").get(path).text
    title = re.search(r"<title>(?:\(\d+\) )?(.*?)</title>", page)

    assert title is not None
    assert re.sub(r"\s+", " ", unescape(title[1])) == heading(page)


def test_a_bug_of_ours_is_a_reference_and_no_traceback(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    person = sign_in("admin")
    monkeypatch.setattr(api_tokens, "rows", lambda fleet: 1 / 0)
    answer = person.get("/keys")

    assert answer.status_code == 500
    assert re.search(
        r"That is a bug in fleetcast, not yours\. Nothing was changed\. Reference [0-9a-f]{4}-[0-9a-f]{4}", heading(answer.text)
    )
    assert "ZeroDivision" not in answer.text
