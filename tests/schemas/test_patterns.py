"""Every pattern that a text is checked against is put into words: nobody reads a regular expression in an error."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

import fleetcast
import hub
import node
import schemas
from hub.core.rollouts import commands
from hub.web.application import described
from node.settings import HOST_PATTERN, ORIGIN_PATTERN
from schemas.device_settings import HOURS_PATTERN
from schemas.errors import Refused
from schemas.names import FILE_PATTERN, NAME_PATTERN, VERSION_PATTERN
from schemas.patterns import form_of, reason_of

ROOT = Path(fleetcast.__file__).parents[1]
OWN = re.compile(r"\bpattern=(?:rf?)?[\"'](?!\^\()|(?:\[[\"']msg[\"']\]|\.get\([\"']msg[\"'])")
PUT_INTO_WORDS = {  # Where an error's own words are used: a pattern was put into words before, or there is none.
    "schemas/patterns.py",
    *("hub/core/publish/release.py", "hub/publish/release_file.py", "node/core/telemetry/accuracy.py"),
    "hub/core/blueprint/reading.py",
}  # fmt: skip


def patterns_of(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        yield from (schema[key] for key in ("propertyNames", "patternProperties") if isinstance(schema.get(key), str))
        for key, value in schema.items():
            yield from patterns_of(value)
            if key == "patternProperties":
                yield from value
    elif isinstance(schema, list):
        for one in schema:
            yield from patterns_of(one)


def models() -> Iterator[type[BaseModel]]:
    for package in (schemas, fleetcast, hub, node):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            path = ROOT / (found.name.replace(".", "/") + ".py")
            if path.exists() and re.search(r"pydantic|schemas", path.read_text()):
                try:
                    importlib.import_module(found.name)
                except ImportError as error:  # An extra that is not installed.
                    if str(error.name).startswith(("hub", "node", "schemas", "fleetcast")):
                        raise
    todo = list(BaseModel.__subclasses__())
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__.partition(".")[0] in {"schemas", "fleetcast", "hub", "node"}:
            yield kind


def test_every_pattern_of_every_model_has_words() -> None:
    of_models = {kind.__name__: list(patterns_of(TypeAdapter(kind).json_schema())) for kind in models() if "[" not in kind.__name__}
    missing = {name: found for name, one in of_models.items() if (found := [text for text in one if form_of(text) is None])}

    assert len([name for name, found in of_models.items() if found]) > 20
    assert missing == {}


def test_every_pattern_of_the_api_has_words() -> None:
    found = set(patterns_of(described()))

    assert len(found) > 8
    assert [one for one in found if form_of(one) is None] == []


def test_no_pattern_is_written_and_no_error_is_shown_beside_the_words() -> None:
    found = {
        str(path.relative_to(ROOT))
        for package in ("schemas", "fleetcast", "hub", "node")
        for path in (ROOT / package).rglob("*.py")
        if OWN.search(path.read_text())
    }

    assert found - PUT_INTO_WORDS == set()


@pytest.mark.parametrize(
    ("pattern", "text", "words"),
    [
        (VERSION_PATTERN, "1.0", "'1.0' is no version; write 1.0.0"),
        (VERSION_PATTERN, "9", "'9' is no version; write 9.0.0"),
        (VERSION_PATTERN, "v1.02.3", "'v1.02.3' is no version; write 1.2.3"),
        (VERSION_PATTERN, "latest", "'latest' is no version: it must be a version such as 1.2.0 or 1.2.0-rc.1"),
        (NAME_PATTERN, "Delay", "'Delay' is no name: it must be 1 to 64 of a-z, 0-9 and '-', and neither begin nor end with '-'"),
        (NAME_PATTERN, "\x1b[31m" + "x" * 99, rf"'\x1b[31m{'x' * 59}' is no name"),
        (HOURS_PATTERN, "10pm", "'10pm' is no span of hours: it must be hours such as 22:00-05:00"),
        (HOST_PATTERN, "http://x", "'http://x' is no name of a host"),
        (ORIGIN_PATTERN, "x", "'x' is no origin: it must be a scheme, a host and a port, such as https://dashboard.example:3000"),
        (FILE_PATTERN, "../x", "'../x' is no path of a file"),
        ("^(running|halted|done)$", "stopped", "'stopped' is no choice: it must be running, halted or done"),
    ],
)
def test_a_text_that_does_not_match_is_named_with_what_would(pattern: str, text: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[str, Field(pattern=pattern)]).validate_python(text)

    assert reason_of(caught.value.errors()[0]).startswith(words)


def test_a_command_whose_version_is_short_is_refused_in_words() -> None:
    with pytest.raises(Refused, match=r"^version: '1\.0' is no version; write 1\.0\.0 "):
        commands.read_as(commands.Start, '{"version": "1.0"}')
