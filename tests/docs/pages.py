"""Pages of documentation as a reader follows them: their commands, run in a shell, and what each says that it prints."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.brokers import free_port

CHECKOUT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "@@ block"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Step:
    """Commands of a page, and the lines that it says they print; `...` stands for anything."""

    commands: str
    printed: tuple[str, ...]


def steps_of(page: Path) -> list[Step]:
    """Return the `sh` blocks of a page, each with the `text` block that follows it."""
    blocks = [(kind, text) for kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind in {"sh", "text"}]
    return [
        Step(text, tuple(blocks[at + 1][1].splitlines()) if blocks[at + 1 : at + 2] and blocks[at + 1][0] == "text" else ())
        for at, (kind, text) in enumerate(blocks)
        if kind == "sh"
    ]


def followed(steps: list[Step], folder: Path, *, seconds: float) -> list[str]:
    """Run all steps in one shell in a folder that holds nothing but tools/, and return what each printed.

    The ports 1883 and 8080, which may be in use here, are replaced by free ones; what is printed has the page's own again.

    Raises:
        AssertionError: a command failed, or all together took longer than `seconds`.
    """
    shutil.copytree(CHECKOUT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    ports = {"1883": str(free_port()), "8080": str(free_port())}
    script = "set -e\n" + "\n".join(f"echo; echo '{MARK}'\n{_replaced(step.commands, ports)}" for step in steps)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETCAST_")} | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FLEETCAST_NODE_BROKER": f"mqtt://127.0.0.1:{ports['1883']}",
        "FLEETCAST_NODE_PORT": ports["8080"],
        "COLUMNS": "200",
    }
    output = folder / "printed"
    with output.open("wb") as file:
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | str = shell.wait(seconds)
        except subprocess.TimeoutExpired:
            code = f"still running after {seconds} s"
        finally:
            _end(shell)
    printed = _replaced(output.read_text(encoding="utf-8"), {free: port for port, free in ports.items()})
    logs = "\n".join(f"{log}: {log.read_text()[-2000:]}" for log in sorted(folder.glob("*/*.log")))
    assert code == 0, f"ended with {code}\n{printed}\n{logs}"
    return printed.split(MARK)[1:]


def missing(printed: str, expected: tuple[str, ...]) -> list[str]:
    """Return which of the expected lines were not printed, in their order; spaces count as one, and `...` as anything."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    wanted = [re.compile(".*".join(map(re.escape, " ".join(line.split()).split("...")))) for line in expected if line.strip()]
    return [one.pattern for one in wanted if not any(one.fullmatch(line) for line in lines)]


def _replaced(text: str, ports: Mapping[str, str]) -> str:
    for port, other in ports.items():
        text = re.sub(rf"(?<=[:=]){port}\b", other, text)
    return text


def _end(shell: subprocess.Popen[bytes]) -> None:
    """End the shell and all that it started."""
    for stop in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(shell.pid, stop)
            shell.wait(60)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
