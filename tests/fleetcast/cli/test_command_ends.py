"""Both command lines end alike: the same sentences, each with its own exit codes."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

import click
import pytest

from hub.cli import errors as hub_errors
from node.cli import errors as node_errors
from schemas.errors import Code, Refused, Unreachable

Guarded = Callable[[Callable[[], object]], None]
SIDES: list[tuple[Guarded, type[IntEnum]]] = [(hub_errors.guarded, hub_errors.Exit), (node_errors.guarded, node_errors.Exit)]
sides = pytest.mark.parametrize(("guarded", "exits"), SIDES, ids=["hub", "node"])


def ended(guarded: Guarded, what: BaseException) -> int:
    def fail() -> None:
        raise what

    with pytest.raises(SystemExit) as end:
        guarded(fail)
    assert isinstance(end.value.code, int)
    return int(end.value.code)


@sides
@pytest.mark.parametrize(
    ("what", "name", "words"),
    [
        (Refused(Code.SETTINGS_INVALID, "a\x1b[2J\nb"), "REFUSED", r"a\x1b[2J b [settings.invalid]"),
        (Refused(Code.PORT_IN_USE, "8443"), "PORT_IN_USE", "8443 [port.in_use]"),
        (Unreachable("broker mqtt://x"), "UNREACHABLE", "broker mqtt://x [unreachable]"),
        (click.UsageError("cannot be meant"), "USAGE", "cannot be meant"),
        (KeyboardInterrupt(), "INTERRUPTED", ""),
        (ModuleNotFoundError("no", name="tuf.api"), "USAGE", "tuf.api is not installed"),
        (OSError(errno.ENOSPC, "No space left", "model"), "DISK_FULL", "no room on the disk for model"),
        (PermissionError(errno.EACCES, "Permission denied", "keys"), "REFUSED", "keys: Permission denied"),
        (ModuleNotFoundError("no", name="fleetcast.absent"), "BUG", "this is a bug"),
        (OSError(errno.EIO, "I/O error"), "DISK_FULL", "what was to be written: I/O error; mend the disk"),
        (OSError(errno.EROFS, "Read-only file system"), "DISK_FULL", "Read-only file system; mend the disk"),
        (OSError(errno.ENOTDIR, "Not a directory"), "BUG", "this is a bug"),
    ],
    ids=str,
)
def test_what_goes_wrong_has_the_same_sentence_on_both_sides(
    guarded: Guarded, exits: type[IntEnum], what: BaseException, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ended(guarded, what)
    told = capsys.readouterr().err

    assert code == exits[name]
    assert words in told
    assert "Traceback" not in told


@sides
def test_every_name_that_the_guard_ends_with_is_an_exit_code(guarded: Guarded, exits: type[IntEnum]) -> None:
    assert {"USAGE", "REFUSED", "UNREACHABLE", "DISK_FULL", "BUG", "INTERRUPTED", "PIPE"} <= set(exits.__members__)


@sides
def test_a_command_that_ends_well_ends_no_process(guarded: Guarded, exits: type[IntEnum]) -> None:
    guarded(lambda: None)


@sides
def test_json_has_the_error_where_it_was_asked_for(
    guarded: Guarded, exits: type[IntEnum], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fleetcast", "--json"])
    ended(guarded, Refused(Code.SETTINGS_INVALID, "no such thing"))

    assert json.loads(capsys.readouterr().out) == {"error": {"code": "settings.invalid", "reason": "no such thing"}}


@pytest.mark.parametrize("module", ["hub", "node"])
@pytest.mark.parametrize("arguments", [["--help"], ["completion", "bash"]], ids=" ".join)
def test_a_reader_that_has_ended_is_exit_code_141_and_no_word(module: str, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("module", "variable"), [("hub", "_FLEETCAST_COMPLETE"), ("node", "_FLEETCAST_NODE_COMPLETE")])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_program_prints_a_script_for_each_shell(module: str, variable: str, shell: str) -> None:
    command = [sys.executable, "-m", module, "completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert (done.returncode, variable in done.stdout) == (0, True)


@pytest.mark.parametrize(("module", "code"), [("hub", 3), ("node", 3)])
def test_an_error_whose_json_nobody_reads_keeps_its_exit_code(module: str, code: int, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    where = {"hub": ["nodes", "--dir"], "node": ["status", "--settings"]}[module]
    command = [sys.executable, "-m", module, *where, str(tmp_path / "absent"), "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    os.close(writer)

    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (code, 1, False)


@pytest.mark.parametrize(("module", "extra"), [("hub", "fleetcast[hub]"), ("node", "fleetcast[node]")])
@pytest.mark.parametrize("arguments", [["--help"], ["releases", "--json"]], ids=" ".join)
def test_a_program_without_click_names_what_to_install(module: str, extra: str, arguments: list[str]) -> None:
    program = f"import sys; sys.modules['click'] = None; sys.argv[0] = 'program'; from {module}.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=120)

    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (2, 1, False)
    assert "click is not installed" in done.stderr
    assert extra in done.stderr
    assert ("not_installed" in done.stdout) is ("--json" in arguments)
