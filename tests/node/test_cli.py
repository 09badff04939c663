"""What a person at the device asks ends in an answer or a sentence, never in a traceback."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
GOOD = 'id = "gw-1"\nfleet = "f"\nbroker = "mqtt://127.0.0.1:1"\ndata = "data"\nroot = "root.json"\n'


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / "fleetcast-node"), *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("text", "arguments", "word"),
    [
        (GOOD, ("telemetry", "show"), "has not run yet"),
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


def test_help_has_examples() -> None:
    assert "fleetcast-node run --settings" in run("--help").stdout
