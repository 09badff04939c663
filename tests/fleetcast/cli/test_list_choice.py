"""Every list takes --columns, --where, --sort and --watch, and says what it has where one of them names what is not there."""

import json
import re
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fleetcast.cli import list_choice
from fleetcast.cli.list_choice import list_options
from fleetcast.cli.table_output import json_option, show
from schemas.errors import Unreachable

ROWS: list[dict[str, Any]] = [
    {"model": "delay", "state": "done", "bytes": 9, "signals": ["a", "b"], "lasts": True, "last_seen": "2026"},
    {"model": "weld", "state": "running", "bytes": 100, "signals": [], "lasts": False, "last_seen": "2025"},
    {"model": "count", "state": "halted", "bytes": None, "signals": ["b"], "lasts": False, "last_seen": "2024"},
]


@click.command()
@json_option
@list_options()
def listing(as_json: bool) -> None:
    words = [{"state": f"{row['state']} at noon"} for row in ROWS]
    show(ROWS, ["model", "state", "bytes"], as_json=as_json, empty="Nothing.", in_words=words)


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(listing, arguments)
    assert done.exit_code == code, done.output
    return done.output


def models(*arguments: str) -> list[str]:
    return [row["model"] for row in json.loads(run(*arguments, "--json"))]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("state=done", ["delay"]),
        ("state!=done", ["weld", "count"]),
        ("state in (done,halted)", ["delay", "count"]),
        ("signals=b", ["delay", "count"]),
        ("signals notin (a)", ["weld", "count"]),
        ("lasts=true", ["delay"]),
        ("!bytes", ["count"]),
        ("last-seen=2025,bytes=100", ["weld"]),
    ],
)
def test_where_looks_at_the_values_that_json_has(where: str, found: list[str]) -> None:
    assert models("--where", where) == found


@pytest.mark.parametrize(
    ("sort", "found"),
    [("bytes", ["delay", "weld", "count"]), ("-bytes", ["weld", "delay", "count"]), ("model", ["count", "delay", "weld"])],
)
def test_numbers_are_sorted_as_numbers_and_what_is_not_there_comes_last(sort: str, found: list[str]) -> None:
    assert models("--sort", sort) == found


def test_a_table_shows_the_columns_that_were_asked_for_in_words_and_json_has_their_values() -> None:
    table = run("--columns", "state,last seen", "--where", "model=weld")
    rows = json.loads(run("--columns", "state,last-seen", "--where", "model=weld", "--json"))

    assert [re.split("  +", line) for line in table.splitlines()] == [["state", "last seen"], ["running at noon", "2025"]]
    assert rows == [{"state": "running", "last_seen": "2025"}]


@pytest.mark.parametrize("option", ["--columns", "--sort", "--where"])
def test_a_column_that_is_not_there_is_named_with_the_one_that_was_meant(option: str) -> None:
    printed = " ".join(run(option, "stat", code=2).split())

    assert "there is no column 'stat'. Did you mean state? There are: model, state, bytes, signals, lasts, last_seen." in printed


def test_nothing_that_matches_is_said_as_such() -> None:
    assert run("--where", "model=none") == "No row matches --where.\n"
    assert json.loads(run("--where", "model=none", "--json")) == []


def test_watch_prints_again_only_what_has_changed_where_there_is_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, None, ROWS[0].__setitem__, None])

    def sleep(seconds: float) -> None:
        try:
            change = next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None
        if change is not None:
            change("bytes", 10)

    monkeypatch.setattr(list_choice.time, "sleep", sleep)
    monkeypatch.setitem(ROWS[0], "bytes", 9)

    printed = CliRunner().invoke(listing, ["--watch", "--where", "model=delay", "--columns", "bytes"]).output

    assert printed.split() == ["bytes", "9", "bytes", "10", "Aborted!"]


def test_watch_outlasts_a_hub_that_does_not_answer_and_keeps_what_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bool] = [True, False, False, True, False]

    @click.command()
    @json_option
    @list_options()
    def flickering(as_json: bool) -> None:
        if not answers.pop(0):
            raise Unreachable("http://hub: connection refused")
        show(ROWS[:1], ["model"], as_json=as_json, empty="Nothing.")

    def sleep(seconds: float) -> None:
        if not answers:
            raise KeyboardInterrupt

    monkeypatch.setattr(list_choice.time, "sleep", sleep)

    done = CliRunner().invoke(flickering, ["--watch"])

    assert done.stdout.count("delay") == 1  # The same list is not printed twice.
    waits = "Waiting for an answer: http://hub: connection refused. It is shown again when there is one.\n"
    assert done.stderr.startswith(f"{waits}It answers again.\n{waits}")


def test_watch_of_a_hub_that_has_never_answered_ends_at_once() -> None:
    @click.command()
    @list_options()
    def dead() -> None:
        raise Unreachable("http://hub: connection refused")

    assert isinstance(CliRunner().invoke(dead, ["--watch"]).exception, Unreachable)


def test_watch_clears_a_screen_only_when_there_is_something_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(list_choice.click, "clear", lambda: shown.append("cleared"))
    monkeypatch.setattr(list_choice.click, "echo", lambda text, **_: shown.append(text))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    def look() -> None:
        if shown:
            raise Unreachable("gone") if len(shown) < 5 else KeyboardInterrupt
        print("a table" if sys.stdout.isatty() else "a pipe")

    monkeypatch.setattr(list_choice.time, "sleep", lambda _: shown.append("slept"))
    with pytest.raises(KeyboardInterrupt):
        list_choice._follow(look)

    assert shown[:4] == ["cleared", "a table\n", "", "slept"]
    assert "cleared" not in shown[1:]
