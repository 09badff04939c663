"""Draw what commands print on a terminal, as an SVG picture: README shows one from a run."""

import os
import re
import subprocess
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from deploy.demo.fleet import BIN

COLUMNS = 118
FONT_FACES = re.compile(r"@font-face\s*{.*?}", re.DOTALL)  # rich's font faces load from a host; the reader's own monospace font serves.


def screen(commands: Sequence[Sequence[str]], directory: Path, path: Path, *, title: str) -> None:
    """Draw the commands' output for a fleet's folder, one after the other, into `path`."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    for command in commands:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            capture_output=True,
            text=True,
            env={**os.environ, "FLEETCAST_DIR": str(directory), "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
            check=False,
        )
        console.print(Text(f"$ {' '.join(command)}", style="bold"))
        console.print(Text.from_ansi(done.stdout.rstrip()))
        console.print()
    path.write_text(FONT_FACES.sub("", console.export_svg(title=title)))
