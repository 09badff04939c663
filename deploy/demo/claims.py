"""Record what the demonstration claims, whether it held, and the evidence; every claim is checked."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

console = Console(highlight=False, width=140)
BEGAN = time.monotonic()


@dataclass(frozen=True, slots=True)
class Claim:
    """Hold one claim and its evidence."""

    claim: str
    held: bool
    evidence: str


class Claims:
    """Collect the report, in the order in which things were shown."""

    def __init__(self) -> None:
        self.all: list[Claim] = []

    def check(self, claim: str, held: bool, evidence: str) -> bool:
        """Record one claim and print it."""
        self.all.append(Claim(claim, bool(held), evidence))
        console.print(f"  [{'green' if held else 'bold red'}]{'holds' if held else 'FAILS'}[/]  {claim}")
        console.print(f"         [dim]{evidence}[/]", soft_wrap=True)
        return bool(held)

    def write(self, path: Path) -> None:
        """Write the report, for scripts."""
        path.write_text(json.dumps([asdict(claim) for claim in self.all], indent=2) + "\n")

    @property
    def failed(self) -> list[Claim]:
        """Return the claims that did not hold."""
        return [claim for claim in self.all if not claim.held]


def act(number: int, title: str) -> None:
    """Print a heading."""
    console.print(f"\n[bold]{number}. {title}[/]  [dim]{time.monotonic() - BEGAN:.0f} s[/]")


def say(text: str) -> None:
    """Print narration."""
    console.print(f"  {text}", soft_wrap=True)
