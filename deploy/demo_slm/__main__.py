"""A language model on one device, over a bad road: `make demo-slm`. Exits non-zero when a claim does not hold."""

import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from deploy.demo.claims import Claims, act, console, say
from deploy.demo.fleet import Fleet
from deploy.demo_slm.story import Story

DIRECTORY = Path(".demo-slm").resolve()
REPORT = Path("demo-slm-report.json")


def main() -> int:
    """Tell the story; 0 when every claim held."""
    began = time.monotonic()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir()
    passphrase = DIRECTORY / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("an operator's secret\n")
    fleet, claims = Fleet(DIRECTORY / "fleet", passphrase), Claims()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    story = Story(fleet, claims)
    try:
        story.tell()
    except Exception as error:  # the report must say that the story broke off
        (DIRECTORY / "broke-off.txt").write_text(traceback.format_exc())
        claims.check("the demonstration ran to its end", False, f"{error} (details in {DIRECTORY / 'broke-off.txt'}, logs beside it)")
    finally:
        story.end()
        fleet.stop()
        claims.write(REPORT)
    act(0, "Result")
    say(f"{len(claims.all) - len(claims.failed)} of {len(claims.all)} claims held, in {time.monotonic() - began:.0f} s; report in {REPORT}")
    for claim in claims.failed:
        console.print(f"  [bold red]failed:[/] {claim.claim}")
    return 1 if claims.failed else 0


if __name__ == "__main__":
    sys.exit(main())
