"""Blueprints as people write them wrong: each mistake names its line and column, and what would be right."""

import pytest

from hub.core.blueprint.document import json_schema
from hub.core.blueprint.reading import InvalidBlueprint, read
from schemas import limits

HEAD = "blueprint: 1\n"
DEPLOYED = HEAD + "models:\n  delay:\n    deployments:\n      default:\n"
RULE = HEAD + "nodes:\n  - node: n1\n    "


def refused(text: str | bytes) -> InvalidBlueprint:
    with pytest.raises(InvalidBlueprint) as caught:
        read(text if isinstance(text, bytes) else text.encode(), name="fleet.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "1:1", "the file is empty"),
        ("# nothing\n", "1:1", "the file is empty"),
        ("- a\n", "1:1", "begins with `blueprint: 1`"),
        ("models: {}\n", "1:1", "`blueprint: 1` is missing"),
        ("blueprint: 2\n", "1:12", "must be the number 1, the version of this format, without quotes; it is '2'"),
        ('blueprint: "1"\n', "1:12", "the number 1, the version of this format, without quotes; it is '1', a text because of its quotes"),
        (HEAD + "nodes: {}\n", "2:1", "must be a list of entries, such as [{node: gateway-17, cohort: nyc}]"),
        (HEAD + "nodes: [{node: {}}]\n", "2:10", "must be a name, or a list of names"),
        (HEAD + "nodes: [{node: [], cohort: a}]\n", "2:10", "it is empty: leave the key out"),
        (HEAD + "fleet: [a]\n", "2:1", "must be a text"),
        (HEAD + "based_on: -1\n", "2:11", "must be 0 or more; it is '-1'"),
        (DEPLOYED + "        priority: 1001\n", "6:19", "must be 1000 or less; it is '1001'"),
        (DEPLOYED + f"        stages: [{'1, ' * 40}100]\n", "6:9", "it has 41 entries, at most 32 are allowed"),
        (RULE + "labels: {a b: c}\n", "4:14", "letters, digits, '.', '_' and '-'; the key is 'a b'"),
        (HEAD + "modles: {}\n", "2:1", "did you mean models?"),
        (DEPLOYED + "        relase: 1.2.0\n", "6:9", "did you mean release?"),
        (DEPLOYED + "        gate: {soak_second: 5}\n", "6:16", "did you mean soak_seconds?"),
        (DEPLOYED + "        release: 1.10\n", "6:18", '`1.10` is the number 1.1 to YAML, and no text: write it in quotes, "1.10"'),
        (DEPLOYED + "        release: v1.2\n", "6:18", "must be a version such as 1.2.0"),
        (DEPLOYED + "        release:\n", "6:17", "there is no value"),
        (DEPLOYED + "        where: !gpu\n", "6:16", 'in quotes, "!gpu"'),
        (DEPLOYED + "        where: *site\n", "6:16", "aliases are not allowed"),
        (DEPLOYED + "        where: {{ site }}\n", "6:17", "a template's, needs quotes"),
        (DEPLOYED + "        stages: [10, 20.5]\n", "6:22", "models.delay.deployments.default.stages.2"),
        (DEPLOYED + "        stages: [{name: canary}]\n", "6:18", "a stage is a percentage"),
        (DEPLOYED + "        stages: 1,10,100\n", "6:17", "must be a list, such as [1, 10, 100]"),
        (DEPLOYED + "        pin: yes please\n", "6:14", "on or off"),
        (RULE + "labels: {country: no}\n", "4:23", '`no` is the truth value false to YAML, and no text: write it in quotes, "no"'),
        (RULE + "labels: {on: a}\n", "4:14", 'write the key in quotes, "on"'),
        (RULE + "labels: {rack: 010}\n", "4:20", "YAML's versions read differently"),
        (RULE + "labels: {day: 2026-12-24}\n", "4:19", "is a date"),
        (RULE + "labels: {at: 22:00}\n", "4:18", "YAML's versions read differently"),
        (RULE + "labels: {ring: 'a b'}\n", "4:20", "letters, digits, '.', '_' and '-'; it is 'a b'"),
        (RULE + 'telemetry: "off"\n', "4:16", "on or off"),
        (RULE + "cohort: a\n    cohort: b\n", "5:5", "key 'cohort' is here twice; the first one is in line 4"),
        (RULE + "budgets: {wifi: {hours: 1}}\n", "4:15", "free"),
        (RULE + "budgets: {free: {hours: 25:00-1}}\n", "4:29", "22:00-05:00"),
        (HEAD + "nodes:\n  - labels: {a: b}\n", "3:5", "give either `node` with names, or `where`"),
        (HEAD + "models: &m {}\n", "2:9", "`&m` is an anchor"),
        (HEAD + "models: !!python/object:os.system {}\n", "2:9", "tags are not allowed"),
        (HEAD + "<<: {}\n", "2:1", "merges mappings"),
        (HEAD + "---\nblueprint: 1\n", "2:1", "a second document"),
        (HEAD + "models:\n\tdelay: {}\n", "3:1", "spaces, and here is a tab"),
        (HEAD + "fleet: a: b\n", "2:9", "needs quotes"),
        (b"blueprint: 1\nfleet: \xff\n", "2:8", "no UTF-8"),
        (HEAD + "fleet: a\x1b[31m\n", "2:9", "U+001B does not print"),
        (HEAD + "fleet: \u202ea\n", "2:8", "U+202E does not print"),
        (HEAD + 'fleet: "a\\e[31m"\n', "2:8", "a-z, 0-9"),
        (HEAD + "models: " + "[" * 50 + "]" * 50 + "\n", "2:20", "levels are within each other"),
        (HEAD + "models: " + "{a: " * 5000, "2:", "levels are within each other"),
    ],
    ids=range(50),
)
def test_a_mistake_names_its_place_and_what_would_be_right(text: str | bytes, place: str, words: str) -> None:
    found = refused(text)

    line, column = found.lines[0].split(":")[1:3]
    assert (f"{line}:{column}".startswith(place), words in found.lines[0]) == (True, True), found.lines
    assert all(one.isprintable() for one in found.reason)


def test_a_huge_file_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bytes, which is the most" in refused(b"#" * (limits.BLUEPRINT_BYTES_MAX + 1)).reason
    monkeypatch.setattr(limits, "BLUEPRINT_VALUES_MAX", 1000)
    assert "1000 values, which is the most" in refused(HEAD + "nodes: [" + "0," * 1000 + "]\n").reason


@pytest.mark.parametrize(
    "line",
    [
        "# -----BEGIN EC PRIVATE KEY-----",
        "# fct_0123456789abcdefghijklmnop",
        "# ft1.AbCdEfGhIjKlMnOpQrStUvWx.abc",
        "# postgresql://hub:hunter2@db/fleet",
        "# password: hunter2",
        "token: hunter2",
    ],
)
def test_a_secret_is_refused_and_never_repeated(line: str) -> None:
    found = refused(f"{HEAD}{line}\n")

    assert "looks like" in found.reason
    assert "hunter2" not in found.reason
    assert "0123456789abc" not in found.reason


def test_every_mistake_is_listed_in_the_order_of_lines() -> None:
    found = refused(RULE + "cohort: A\n    labels: {a: no}\n    colour: red\n")

    assert [line.split(":")[1] for line in found.lines] == ["4", "5", "6"]
    assert "3 mistakes in all" in found.reason


def test_words_that_are_read_alike_everywhere_are_taken() -> None:
    found = read(
        b"\xef\xbb\xbfblueprint: 1\r\nnodes:\r\n  - node: n1\r\n    telemetry: off\r\n    labels: {a: 'no', b: \"1.10\"}\r\n", name="f"
    ).blueprint

    assert found.nodes is not None
    assert (found.nodes[0].telemetry, found.nodes[0].labels) == (False, {"a": "no", "b": "1.10"})


@pytest.mark.parametrize(("word", "value"), [("no", False), ("off", False), ("yes", True), ("on", True), ("true", True)])
def test_where_on_or_off_is_wanted_its_words_need_no_quotes(word: str, value: bool) -> None:
    found = read(f"{RULE}telemetry: {word}\n".encode(), name="f").blueprint.nodes

    assert [one.telemetry for one in found or ()] == [value]
    assert "yes or no" in refused(f'{RULE}telemetry: "{word}"\n').reason


def test_the_schema_for_editors_takes_what_the_reader_takes() -> None:
    import jsonschema

    ours = {
        "blueprint": 1,
        "models": {"m": {"deployments": {"default": {"release": "1.2.0", "stages": [1, {"name": "c", "where": "a=b"}, 100]}}}},
        "nodes": [{"node": "n1", "labels": {"a": "b"}}, {"node": ["n1", "n2"], "telemetry": False}],
    }
    wrong = {"blueprint": 1, "models": {"m": {"deployments": {"default": {"relase": "1.2.0"}}}}}
    validator = jsonschema.Draft202012Validator(json_schema())

    assert list(validator.iter_errors(ours)) == []
    assert list(validator.iter_errors(wrong)) != []
