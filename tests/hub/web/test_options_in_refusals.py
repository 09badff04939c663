"""Options of the command line in what is refused: a client of the API reads its fields, and a page's reader what the page has."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetcast.error_help import MEANINGS
from hub.web import problems
from hub.web.console.refusals import in_page_words, of_refused
from schemas.errors import Code, Refused

HERE = Path(__file__).parents[3]
ROOMS = ("hub/core/rollouts", "hub/core/blueprint", "hub/core/nodes", "hub/operations", "hub/service", "hub/web")
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")
PLACE = "x1"  # Stands for what a sentence is about.
OF_COMMANDS = {  # Options of commands that no API and no page has: what they are about was typed beside them.
    "block-bytes",  # Of `publish`, where the release is made.
    "nodes",  # Of `plan`, in the words that `plan` prints.
    "fingerprint",  # Of `nodes replace`, which reads it off a device.
}


def sentences() -> Iterator[tuple[str, str]]:
    """Every sentence of the code behind API and console that names an option, with its file."""
    for room in ROOMS:
        for path in sorted((HERE / room).rglob("*.py")):
            tree = ast.parse(path.read_text())
            inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                text = text_of(node) if id(node) not in inside | docs else ""
                if OPTION.search(text) and " " in text:
                    yield path.relative_to(HERE).as_posix(), text


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else PLACE for part in node.values)
    return ""


def bare_options(text: str) -> set[str]:
    """Options that stand in a sentence, and not in a command that it names."""
    return {name for part in problems.COMMAND.split(text)[::2] for name in OPTION.findall(part)}


def names_of_the_api(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from node.get("properties", {})
        yield from [one["name"] for one in node.get("parameters", ()) if isinstance(one, dict) and "name" in one]
        for value in node.values():
            yield from names_of_the_api(value)
    elif isinstance(node, list):
        for value in node:
            yield from names_of_the_api(value)


def test_an_option_in_a_refusal_is_a_field_of_the_api_and_words_of_a_page() -> None:
    found, known = list(sentences()), set(names_of_the_api(json.loads((HERE / "hub/web/openapi.json").read_text())))
    bare = {(path, name) for path, text in found for name in bare_options(text)}

    assert len(found) > 20
    assert len({name for _, name in bare}) > 6
    fields = {(path, problems.FIELDS.get(name, name.replace("-", "_"))) for path, name in bare if name not in OF_COMMANDS}
    assert {one for one in fields if one[1] not in known} == set()
    for path, text in found:
        assert bare_options(problems.in_fields(text)) == set(), path
        assert all(
            f"`--{name}" in in_page_words(text, {}) and " on the command line" in in_page_words(text, {}) for name in bare_options(text)
        )
        assert bare_options(in_page_words(text, {})) == set(), path
    for code in Code:
        page = of_refused(Refused(code, ""))
        assert bare_options(str(page.mend)) == set(), code
        assert " to true" not in str(page.mend), code
        assert bare_options((problems.meaning_of(code) or ("", ""))[1]) == set() or code not in problems.STATUSES, code


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("m@1.0.0 moves: `fleetcast rollout halt m --deployment a`; --supersede begins it all the same",
         "m@1.0.0 moves: `fleetcast rollout halt m --deployment a`; “Leave it half-way” begins it all the same"),
        ("no node is asked; --allow-empty starts it all the same",
         "No node is asked; `--allow-empty` on the command line starts it all the same"),
        ("there is no deployment a of m: give --where SELECTOR to make it",
         "There is no deployment a of m: give `--where SELECTOR` on the command line to make it"),
    ],
)  # fmt: skip
def test_a_page_names_the_field_that_it_has_and_else_the_command_line(reason: str, shown: str) -> None:
    fields = {"supersede": "Leave it half-way: it runs, at 10 % of its nodes"}

    assert of_refused(Refused(Code.ROLLOUT_INVALID, reason), fields=fields).sentence == shown


def test_meanings_name_options_only_where_the_api_has_words_of_its_own() -> None:
    assert {code for code, (_, mend) in MEANINGS.items() if bare_options(mend)} <= set(problems.WORDS)
