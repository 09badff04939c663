"""Forms that are sent late or twice change nothing that their question did not name, and say what has changed meanwhile."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy import update

from hub.database import tables
from hub.database.rows import NodeRow
from hub.operations import api_tokens, console_sessions
from hub.web.guard import Door
from schemas import codec
from schemas.state import Profile, State
from tests.hub.web.console.people import Person, hidden, text_of

SignIn = Callable[[str], Person]
LABEL = "/nodes/label?where=grp%3Da"


def report(door: Door, name: str, *, key: bytes = b"", **labels: str) -> None:
    state = State(
        node=name, session=2, status="online", at=int(time.time()), profile=Profile(arch="x", cores=1, memory_bytes=1, labels=labels)
    )
    door.fleet.store.upsert_nodes([NodeRow(name, 2, "online", state.at, codec.encode(state), key, "default")])


def test_no_node_gets_a_label_that_the_question_did_not_name(sign_in: SignIn, door: Door) -> None:
    person = sign_in("operator")
    report(door, "n0", grp="a")
    report(door, "n1", grp="b")
    page = person.page(LABEL)
    report(door, "n0", grp="z")
    report(door, "n1", grp="a")
    late = person.send(LABEL, {**hidden(page), "label": "danger=yes"})

    assert "Label 1 node? 1 node matches grp=a: n0." in text_of(page)
    assert late.status_code == 412
    assert "n1, on which the hub sets no label now, you saw n0, on which the hub sets no label." in text_of(late.text)
    assert 'name="label" value="danger=yes"' in late.text
    assert not door.fleet.store.open_commands()


def test_a_question_about_many_nodes_names_the_first_and_counts_the_rest(sign_in: SignIn, door: Door) -> None:
    person = sign_in("operator")
    for number in range(6):
        report(door, f"n{number}", grp="a")
    page = person.page(LABEL)

    assert "Label 6 nodes? 6 nodes match grp=a: n0, n1, n2 and 3 more." in text_of(page)
    assert hidden(page)["seen"] == "6 nodes, n0, n1, n2 and 3 more, whose settings were changed 0 times"


@pytest.mark.parametrize("label", ["ring=a b", "ring=", "=x", "ring", "r!=x"])
def test_a_label_that_is_none_is_refused_in_words(sign_in: SignIn, label: str) -> None:
    answer = sign_in("operator").answer("/nodes/label?where=site%3Djfk", label=label)

    assert answer.status_code == 422
    assert "abel" in text_of(answer.text)
    assert "pattern" not in answer.text
    assert "labels." not in answer.text.lower()


def test_a_node_that_has_new_hardware_by_now_is_not_forgotten(sign_in: SignIn, door: Door) -> None:
    admin = sign_in("admin")
    report(door, "n9", key=b"1" * 32)
    form = hidden(admin.page("/nodes/n9/forget"))
    report(door, "n9", key=b"2" * 32)
    late = admin.send("/nodes/n9/forget", {**form, "why": "gone", "name": "n9"})
    done = admin.answer("/nodes/n9/forget", why="gone", name="n9")
    again = admin.send("/nodes/n9/forget", {**form, "why": "gone", "name": "n9"})

    assert (late.status_code, done.status_code, again.status_code) == (412, 303, 404)
    assert "now, you saw the device has key" in text_of(late.text)
    assert "You changed it last, at" in text_of(again.text)
    assert 'href="/nodes">To the nodes' in again.text


def test_a_token_that_is_revoked_or_made_twice_was_so_the_first_time(sign_in: SignIn, door: Door) -> None:
    admin = sign_in("admin")
    form = {**hidden(admin.page("/keys/make")), "token_name": "board", "role": "viewer", "days": "30"}
    made = [admin.send("/keys/make", form) for _ in range(2)]
    row = next(one for one in api_tokens.rows(door.fleet) if one["name"] == "board")
    path = f"/keys/{row['id']}/revoke"
    asked = hidden(admin.page(path))
    revoked = [admin.send(path, asked) for _ in range(2)]

    assert [one.status_code for one in (*made, *revoked)] == [200, 422, 303, 404]
    assert "You have made the token board already, at" in text_of(made[1].text)
    assert "is shown once" in text_of(made[1].text)
    assert "The token board is revoked already" in text_of(revoked[1].text)
    assert "You changed it last, at" in text_of(revoked[1].text)
    assert 'href="/keys">To the tokens' in revoked[1].text


@pytest.mark.parametrize("ended", ["idle", "signed out"])
def test_an_answer_after_the_session_does_nothing_says_so_and_keeps_its_reason(sign_in: SignIn, door: Door, ended: str) -> None:
    person = sign_in("operator")
    report(door, "n0", grp="a")
    form = {**hidden(person.page(LABEL)), "label": "ring=x", "why": "pump 3 & <b>"}
    if ended == "idle":
        with door.fleet.store.database.write() as db:
            db.execute(update(tables.console_sessions).values(used_at=int(time.time()) - console_sessions.IDLE_SECONDS - 60))
    else:
        person.answer("/logout")
    sent = person.send(LABEL, form)
    page = person.page(sent.headers["location"])
    token = api_tokens.make(door.fleet, name="again", role="operator", days=1)[1]
    back = person.send("/login", {"token": token, **hidden(page)})
    question = person.page(back.headers["location"])

    assert "when your answer came, and nothing was done. Sign in, and you come back to the question." in text_of(page)
    assert ("You were signed out at" in text_of(page)) == (ended == "idle")
    assert "Label 1 node? 1 node matches grp=a: n0." in text_of(question)
    assert 'name="why" value="pump 3 &amp; &lt;b&gt;"' in question
    assert f'action="{LABEL}"' in question
    assert not door.fleet.store.open_commands()
    assert person.send(LABEL, {**hidden(question), "label": "ring=x", "why": "pump 3"}).status_code in {202, 303}


@pytest.mark.parametrize(
    ("fields", "headers"), [({"why": "x" * 9000}, {}), ({"why": "a\nb"}, {}), ({"why": "evil"}, {"origin": "http://evil"})]
)
def test_what_is_no_reason_or_comes_from_elsewhere_is_not_kept(sign_in: SignIn, fields: dict[str, str], headers: dict[str, str]) -> None:
    person = sign_in("operator")
    person.client.cookies.clear()
    sent = person.send(LABEL, fields, **headers)

    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=%2Fnodes%2Flabel%3Fwhere%3Dgrp%253Da&undone=1")
