"""Write what is drawn from code: settings, commands, the map of folders, a list of decisions. `python -m tools.generate_docs [--check]`.

`--check` writes nothing, names each page that differs from the code, and ends with 1 if there is one.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tools import commands, folders, markdown, settings

CHECKOUT = Path(__file__).parents[1]
ARCHITECTURE = "docs/architecture.md"
DECISIONS = "docs/decisions/README.md"


def outputs(checkout: Path = CHECKOUT) -> dict[str, str]:
    """Return every page that is drawn, whole, by its path in the checkout."""
    os.environ["COLUMNS"] = "80"  # The pages must not depend on a terminal.
    return {
        "docs/settings.md": settings.page(checkout),
        "docs/commands.md": commands.page(checkout),
        DECISIONS: markdown.block((checkout / DECISIONS).read_text(encoding="utf-8"), "decisions", _decisions(checkout)),
        ARCHITECTURE: markdown.block((checkout / ARCHITECTURE).read_text(encoding="utf-8"), "folders", folders.lines(checkout)),
    }


def _decisions(checkout: Path) -> list[str]:
    """Return a line for each decision: its number and title, linked."""
    pages = sorted((checkout / DECISIONS).parent.glob("[0-9]*.md"))
    titles = [re.sub(r"^# (\d+\. )?", "", page.read_text(encoding="utf-8").split("\n", 1)[0]) for page in pages]
    return [f"{int(page.name[:4])}. [{title}]({page.name})" for page, title in zip(pages, titles, strict=True)]


def main(arguments: Sequence[str], checkout: Path = CHECKOUT) -> int:
    """Write the pages, or name those that are stale."""
    stale = [
        path
        for path, text in outputs(checkout).items()
        if not (checkout / path).is_file() or (checkout / path).read_text(encoding="utf-8") != text
    ]
    for path in stale:
        print(f"stale: {path}; run `make generate`" if "--check" in arguments else f"wrote {path}")
    if "--check" in arguments:
        return 1 if stale else 0
    for path, text in outputs(checkout).items():
        (checkout / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
