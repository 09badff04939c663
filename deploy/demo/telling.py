"""Run a demonstration: a fresh folder, a story of acts, a report of its claims, and an end to all that was started."""

import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from deploy.demo.claims import Claims, act, console, say
from deploy.demo.fleet import Fleet


class Tells(Protocol):
    """Define a story of acts."""

    def tell(self) -> None:
        """Run all acts."""

    def end(self) -> None:
        """Stop what it started beside the fleet."""


def run(directory: Path, report: Path, story_of: Callable[[Fleet, Claims], Tells]) -> int:
    """Run the story; return 0 when every claim held."""
    began = time.monotonic()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    passphrase = directory / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("an operator's secret\n")
    fleet, claims = Fleet(directory / "fleet", passphrase), Claims()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    story = story_of(fleet, claims)
    try:
        story.tell()
    except Exception as error:  # The report must show that the story broke off.
        (directory / "broke-off.txt").write_text(traceback.format_exc())
        claims.check("the demonstration ran to its end", False, f"{error} (details in {directory / 'broke-off.txt'}, logs beside it)")
    finally:
        story.end()
        fleet.stop()
        claims.write(report)
    act(0, "Result")
    say(f"{len(claims.all) - len(claims.failed)} of {len(claims.all)} claims held, in {time.monotonic() - began:.0f} s; report in {report}")
    for claim in claims.failed:
        console.print(f"  [bold red]failed:[/] {claim.claim}")
    return 1 if claims.failed else 0
