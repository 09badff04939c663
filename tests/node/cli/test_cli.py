"""What a person at the device asks ends in an answer or a sentence, never in a traceback."""

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from node.cli.errors import Exit
from tests import warm
from tests.hub.hubs import until

BIN = Path(sys.executable).parent
GOOD = 'id = "gw-1"\nfleet = "f"\nbroker = "mqtt://127.0.0.1:1"\ndata = "data"\nroot = "root.json"\n'


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run("fleetcast-node", *arguments)


@pytest.mark.parametrize(
    ("text", "arguments", "word"),
    [
        (GOOD, ("telemetry", "show"), "has never run"),
        (GOOD, ("run",), "root.json"),
        (GOOD + "nonsense = 1\n", ("run",), "nonsense"),
        ("", ("telemetry", "budget"), "node.toml"),
    ],
)
def test_what_is_wrong_at_the_device_is_a_sentence_and_exit_code_3(
    tmp_path: Path, text: str, arguments: tuple[str, ...], word: str
) -> None:
    if text:
        (tmp_path / "node.toml").write_text(text)

    done = run(*arguments, "--settings", str(tmp_path / "node.toml"))

    assert done.returncode == 3, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_local_port_in_use_is_told_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("test\n")
    made = [str(BIN / "fleetcast"), "init", str(tmp_path / "fleet"), "--fleet", "f", "--passphrase-file", str(tmp_path / "secret")]
    subprocess.run(made, check=True, capture_output=True)
    (tmp_path / "root.json").write_bytes((tmp_path / "fleet" / "root.json").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "node.toml").write_text(GOOD + f"port = {port}\n")

        done = run("run", "--settings", str(tmp_path / "node.toml"))

    assert (done.returncode, str(port) in done.stderr, "Traceback" in done.stderr) == (8, True, False), done.stderr


COMMANDS = (
    "run",
    "status",
    "models",
    "doctor",
    "telemetry show",
    "telemetry budget",
    "labels",
    "ledger",
    "import",
    "relay",
    "completion",
    "enroll",
    "renew",
    "prove",
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_examples(command: str) -> None:
    done = run(*command.split(), "--help")

    assert (done.returncode, "Example" in done.stdout, f"fleetcast-node {command}" in done.stdout) == (0, True, True), done.stdout


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in {"run", "relay", "completion", "prove"}])
def test_what_prints_a_table_prints_json(command: str) -> None:
    assert "--json" in run(*command.split(), "--help").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_what_it_needs_to_complete(shell: str) -> None:
    done = run("completion", shell)

    assert (done.returncode, "_FLEETCAST_NODE_COMPLETE" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("words", "at", "found"),
    [
        ("fleetcast-node ", 1, {*(one.split()[0] for one in COMMANDS)}),
        ("fleetcast-node telemetry ", 2, {"show", "budget", "kept", "recalibrate"}),
        ("fleetcast-node status --j", 2, {"--json"}),
    ],
)
def test_commands_and_options_are_completed(words: str, at: int, found: set[str]) -> None:
    asked = {**os.environ, "_FLEETCAST_NODE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    done = subprocess.run([str(BIN / "fleetcast-node")], capture_output=True, text=True, check=False, env=asked, timeout=240)

    assert {line.partition(",")[2] for line in done.stdout.split()} == found


def test_an_error_is_json_where_json_was_asked_for(tmp_path: Path) -> None:
    refused = run("status", "--json", "--settings", str(tmp_path / "none.toml"))
    senseless = run("status", "--json", "--nonsense")

    assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (3, "settings.invalid")
    assert (senseless.returncode, json.loads(senseless.stdout)["error"]["code"]) == (2, "usage")
    assert "[settings.invalid]" in refused.stderr


def test_a_reader_that_has_gone_is_no_bug(tmp_path: Path) -> None:
    command = f"{BIN / 'fleetcast-node'} completion bash | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=240)

    assert (done.stdout.strip() in {"0", "141"}, done.stderr) == (True, "")  # 0: it was faster than the reader


def test_a_bug_is_told_in_a_sentence_and_its_details_are_kept(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(GOOD)
    (tmp_path / "data").mkdir()
    store = sqlite3.connect(tmp_path / "data" / "node.sqlite")
    store.execute("CREATE TABLE slot (model TEXT, document TEXT)")
    store.execute("INSERT INTO slot VALUES ('m', 'no slot')")  # nobody but our own bug writes such a row
    store.commit()
    store.close()
    asked = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [str(BIN / "fleetcast-node"), "models", "--settings", str(tmp_path / "node.toml")]

    done = subprocess.run(command, capture_output=True, text=True, check=False, env=asked, timeout=240)

    kept = next(tmp_path.glob("fleetcast-bug-*.txt"))
    assert (done.returncode, "Traceback" in done.stderr, str(kept) in done.stderr) == (70, False, True)
    assert "Traceback" in kept.read_text()


def test_the_manual_has_every_exit_code() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "commands.md").read_text()
    section = manual[manual.index("## Exit codes of `fleetcast-node`") :]  # the page's last one
    listed = {int(number) for row in re.findall(r"^\| ([0-9, ]+) \|", section, re.MULTILINE) for number in row.split(",")}

    assert listed == {int(code) for code in Exit}


def test_a_relay_is_alone_on_its_folder_and_tells_its_service_manager_how_it_is(tmp_path: Path) -> None:
    door = 'broker = "mqtt://127.0.0.1:1"\n'
    (tmp_path / "relay.toml").write_text(f'id = "site-7"\nfleet = "f"\ndata = "data"\n[upstream]\n{door}[site]\n{door}')
    command = [str(BIN / "fleetcast-node"), "relay", "--settings", str(tmp_path / "relay.toml")]
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        asked = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        first = subprocess.Popen(command, env=asked, stderr=subprocess.DEVNULL)
        listening = threading.Thread(target=lambda: [heard.append(said) for said in iter(lambda: manager.recv(100), b"end")])
        listening.start()
        until("the watchdog", lambda: b"WATCHDOG=1" in heard)
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        first.terminate()
        ended = first.wait(100)
        manager.connect(str(tmp_path / "notify"))
        manager.send(b"end")
        listening.join(100)

    assert (heard[0], set(heard[1:-1]), heard[-1], ended) == (b"READY=1", {b"WATCHDOG=1"}, b"STOPPING=1", 0)
    assert (second.returncode, f"process {first.pid} runs" in second.stderr) == (6, True)
