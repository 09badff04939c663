"""How commands end when nothing else has a word for it: never in a traceback, and with 1 only for our own bugs."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from fleetcast.cli.terminal_text import plain
from hub.cli.errors import Exit, guarded
from schemas.errors import Code, Refused, Unreachable
from tests.hub.cli.fleets import BIN, run


def ended(capsys: pytest.CaptureFixture[str], what: BaseException) -> tuple[int, str]:
    def fail() -> None:
        raise what

    with pytest.raises(SystemExit) as end:
        guarded(fail)
    assert end.value.code is not None
    return int(end.value.code), capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        (Refused(Code.SETTINGS_INVALID, "no such thing"), Exit.REFUSED, "no such thing [settings.invalid]"),
        (Refused(Code.RELEASE_CONFLICT, "twice"), Exit.CONFLICT, "twice"),
        (Refused(Code.KEY_PASSPHRASE, "wrong"), Exit.KEY, "wrong"),
        (Unreachable("broker mqtt://x"), Exit.UNREACHABLE, "mqtt://x"),
        (OSError(errno.ENOSPC, "No space", "f"), Exit.DISK_FULL, "f"),
        (OSError(errno.EDQUOT, "Quota"), Exit.DISK_FULL, "no room"),
        (PermissionError(errno.EACCES, "Permission denied", "keys"), Exit.REFUSED, "keys: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "trust"), Exit.REFUSED, "trust: Read-only"),
        (FileNotFoundError(errno.ENOENT, "No such file", "trust/lock"), Exit.REFUSED, "trust/lock"),
        (click.UsageError("cannot be meant"), Exit.USAGE, "cannot be meant"),
        (click.Abort(), Exit.INTERRUPTED, ""),
        (KeyboardInterrupt(), Exit.INTERRUPTED, ""),
        (ModuleNotFoundError("no", name="sqlalchemy.orm"), Exit.USAGE, "fleetcast[hub]"),
        (Refused(Code.SETTINGS_INVALID, "a\x1b[2J\nb"), Exit.REFUSED, r"a\x1b[2J b"),
    ],
    ids=str,
)
def test_each_error_has_its_exit_code(capsys: pytest.CaptureFixture[str], what: BaseException, code: Exit, words: str) -> None:
    found, said = ended(capsys, what)

    assert found == code
    assert words in said
    assert "Traceback" not in said


def test_a_bug_of_ours_names_the_file_that_has_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEETCAST_DEBUG", raising=False)

    code, said = ended(capsys, ZeroDivisionError("by zero"))

    path = Path(said.split("the details are in ")[1].split(" ")[0])
    assert code == Exit.BUG
    assert "this is a bug in fleetcast" in said
    assert "Traceback" in path.read_text()
    path.unlink()


def test_a_bug_is_told_even_where_its_file_cannot_be_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEETCAST_DEBUG", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")

    code, said = ended(capsys, ZeroDivisionError("by zero"))

    assert code == Exit.BUG
    assert "FLEETCAST_DEBUG=1" in said


def test_with_json_a_usage_error_is_json_too() -> None:
    done = run("watch", "--until", "nonsense", "--json")

    assert done.returncode == Exit.USAGE
    assert json.loads(done.stdout)["error"]["code"] == "usage"


def test_on_a_device_without_the_hubs_dependencies_a_sentence_says_so() -> None:
    program = "import sys; sys.modules['sqlalchemy'] = None; sys.argv = ['fleetcast', 'releases']; from hub.__main__ import main; main()"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith("fleetcast: sqlalchemy is not installed")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["init", "--help"], ["completion", "bash"]])
def test_a_reader_who_has_gone_is_no_bug(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run([str(BIN / "fleetcast"), *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)

    os.close(writer)
    assert (done.returncode, done.stderr) == (Exit.PIPE, "")


@pytest.mark.parametrize(
    ("words", "offered"), [("fleetcast ro", "rollout"), ("fleetcast rollout ha", "halt"), ("fleetcast watch --until al", "alert")]
)
def test_a_shell_completes_commands_and_values(words: str, offered: str) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_FLEETCAST_COMPLETE": "bash_complete"}

    assert run(**asked).stdout.split() == [f"plain,{offered}"]


def test_what_does_not_print_is_written_out() -> None:
    escaped: dict[str, str] = {"ü 東": "ü 東", "a\tb": r"a\tb", "\x9b1m": r"\x9b1m", "\u202e": r"\u202e", "\udc80": r"\udc80"}
    check: Callable[[str], str] = plain

    assert {text: check(text) for text in escaped} == escaped
