"""What a site sets is read again when it changes; a file that is wrong says why and changes nothing."""

import os
from itertools import count
from pathlib import Path

import pytest

from node.host.site_parameters import FILE_BYTES_MAX, LOOK_SECONDS, Overrides
from schemas.errors import Code, Refused

TICKS = count(1)


def write(path: Path, text: str) -> None:
    path.write_text(text)
    at = next(TICKS) * 10**9
    os.utime(path, ns=(at, at))


def later() -> float:
    return next(TICKS) * LOOK_SECONDS


def test_a_file_that_is_not_there_sets_nothing(tmp_path: Path) -> None:
    overrides = Overrides(tmp_path / "parameters.toml")

    assert (overrides.look(later()), overrides.of("delay")) == (False, {})


def test_a_change_is_seen_once_and_a_removal_is_one(tmp_path: Path) -> None:
    path = tmp_path / "parameters.toml"
    overrides = Overrides(path)
    write(path, '[delay]\nthreshold = 0.7\nlabels = { cat = "Katze" }\n')

    assert (overrides.look(later()), overrides.look(later())) == (True, False)
    assert overrides.of("delay") == {"threshold": 0.7, "labels": {"cat": "Katze"}}
    path.unlink()
    assert (overrides.look(later()), overrides.of("delay")) == (True, {})


def test_it_is_not_read_at_every_turn(tmp_path: Path) -> None:
    path = tmp_path / "parameters.toml"
    overrides = Overrides(path)
    now = later()
    overrides.look(now)
    write(path, "[delay]\nthreshold = 0.7\n")

    assert overrides.look(now + LOOK_SECONDS / 2) is False
    assert overrides.look(now + LOOK_SECONDS) is True


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[delay\n", "Expected ']'"),
        ("delay = 3\n", "delay: Input should be a valid dictionary"),
        ("[delay]\nwhen = 2020-01-01\n", "delay.when"),
        ('[delay]\nx = "' + "a" * 129 + '"\n', "delay.x"),
        ("[Delay]\nx = 1\n", "Delay"),
        ("# " + "x" * FILE_BYTES_MAX, "expected at most"),
        ("".join(f"[m{number}]\nx = 1\n" for number in range(33)), "models: expected at most 32, found 33"),
    ],
)
def test_a_file_that_is_wrong_says_why_once_and_what_it_said_before_holds(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "parameters.toml"
    overrides = Overrides(path)
    write(path, "[delay]\nthreshold = 0.7\n")
    overrides.look(later())
    write(path, text)

    with pytest.raises(Refused, match=sentence.replace("[", r"\[").replace("]", r"\]")) as refusal:
        overrides.look(later())

    assert refusal.value.code is Code.SETTINGS_INVALID
    assert str(path) in refusal.value.reason
    assert (overrides.look(later()), overrides.of("delay")) == (False, {"threshold": 0.7})
