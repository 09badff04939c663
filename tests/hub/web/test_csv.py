"""Tables as CSV, from the API and the console: all rows, sent while they are read, and no cell that a spreadsheet runs."""

import csv
import io
from collections.abc import Callable, Iterator

import pytest

from hub.operations import csv_text
from tests.hub.web.console.conftest import sign_in
from tests.hub.web.console.people import Person
from tests.hub.web.fleets import Asked

__all__ = ["sign_in"]
FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", 'a,b"c\nd', "plain"]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_is_never_a_formula_and_its_text_is_kept(text: str) -> None:
    found = rows(b"".join(csv_text.lines(["a", "b"], [{"a": text, "b": -3.5}])).decode())

    assert found[0]["a"].lstrip("'") == text
    assert not found[0]["a"].lstrip().startswith(csv_text.FORMULA)
    assert found[0]["b"] == "-3.5"  # A number of ours, and no text of a stranger.


def test_a_table_is_sent_while_it_is_read() -> None:
    read = 0

    def endless() -> Iterator[dict[str, int]]:
        nonlocal read
        while True:
            read += 1
            yield {"a": read}

    first = next(csv_text.lines(["a"], endless()))

    assert (first.count(b"\r\n"), read) == (csv_text.ROWS_AT_ONCE + 1, csv_text.ROWS_AT_ONCE)


def test_each_list_is_a_table_by_format_or_accept(here: Asked) -> None:
    here.fleet.store.add_event("device", FORMULAS[0], {"node": "n1", "why": "@why", "before": {"a": -1}, "after": None}, actor="=eve")
    for number in range(1200):
        here.fleet.store.add_event("device", f"change {number}", {"node": "n1"}, actor="ada")

    def table(path: str, **headers: str) -> list[dict[str, str]]:
        answer = here.ask("GET", path, "viewer", headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/csv")
        assert "attachment; filename=" in answer.headers["content-disposition"]
        return rows(answer.text)

    nodes, some = table("/nodes?format=csv"), table("/nodes?where=site%3Djfk&sort=-last_seen", accept="text/csv")
    audit = table("/audit?format=csv&node=n1")

    assert [row["node"] for row in nodes] == [f"n{number}" for number in range(6)]
    assert (nodes[0]["labels"], nodes[0]["bytes_received"]) == ("site=jfk", "0")
    assert {row["node"] for row in some} == {"n0", "n1"}
    assert len(audit) == 1201
    assert (audit[-1]["what"], audit[-1]["actor"], audit[-1]["why"]) == (f"'{FORMULAS[0]}", "'=eve", "'@why")
    assert (audit[-1]["before"], audit[-1]["after"]) == ("a=-1", "")
    assert table("/drift?format=csv") == table("/bytes?format=csv&by=link") == []
    assert here.get("/bytes")["items"] == []
    assert here.ask("GET", "/nodes", "viewer", headers={"accept": "application/json, text/csv"}).json()["total"] == 6
    assert here.ask("GET", "/nodes?format=xlsx", "viewer").status_code == 422
    assert here.ask("GET", "/bytes?day=2999-01-01", "viewer").status_code == 422
    assert here.ask("GET", "/audit?format=csv", None).status_code == 401


def test_pages_lead_to_their_tables_with_what_was_asked(sign_in: Callable[[str], Person]) -> None:
    person = sign_in("viewer")
    for path, columns in (("/nodes", "node"), ("/drift", "model"), ("/audit", "actor"), ("/bytes", "release")):
        page, answer = person.page(path), person.get(f"{path}.csv")
        assert f'<a href="{path}.csv" download>Save as CSV</a>' in page
        assert answer.status_code == 200
        assert columns in answer.text.splitlines()[0]
        assert answer.headers["cache-control"] == "no-store"
    narrowed = person.page("/nodes?where=site%3Djfk&limit=20")
    assert 'href="/nodes.csv?where=site%3Djfk"' in narrowed
    assert len(rows(person.get("/nodes.csv?where=site%3Djfk").text)) == 2
    assert person.get("/nodes.csv?nonsense=1").status_code == 422
    assert person.get("/models.csv").status_code == 404
