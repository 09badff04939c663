"""One node, two nodes."""

import re
from pathlib import Path

import fleetcast
from fleetcast.counted import counted, verb


def test_one_of_a_thing_has_no_plural() -> None:
    assert [f"{counted(number, 'node')} {verb(number, 'serve')} it" for number in (0, 1, 2)] == [
        "0 nodes serve it",
        "1 node serves it",
        "2 nodes serve it",
    ]


ROOT = Path(fleetcast.__file__).parents[1]
NOUNS = "nodes|models|rollouts|releases|alerts|changes|tokens|deployments|streams|signals|receipts|windows|variants|messages|payloads"
LOOSE = re.compile(rf"\}}\}}? (?:{NOUNS})\b")
KNOWS_ITS_NUMBER = re.compile(r"_MAX|_max|== 1|> 1\b")


def test_no_count_stands_before_a_plural_that_it_may_not_have() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("hub/web", "hub/cli", "hub/operations", "hub/core/rollouts", "node/cli", "fleetcast")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".html"}
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if LOOSE.search(line) and not KNOWS_ITS_NUMBER.search(line) and '"""' not in line
    ]

    assert found == []
