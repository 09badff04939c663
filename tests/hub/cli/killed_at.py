"""Run `fleetcast`, and end as by SIGKILL at the N-th step of its database: `python -m tests.hub.cli.killed_at N COUNT_FILE WORD...`.

A step is a row that is about to be written, a commit that is about to be made, and what comes next after a commit.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

WRITES = ("insert", "update", "delete")


class Steps:
    """Count steps, and end the process at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.has_committed = at, 0, False

    def statement(self, _c: Any, _k: Any, statement: str, *_: Any) -> None:
        if self.has_committed or statement.lstrip().lower().startswith(WRITES):
            self.has_committed = False
            self.step()

    def commit(self, _: Any) -> None:
        self.step()
        self.has_committed = True

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    at, where, words = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    steps = Steps(at)
    event.listen(Engine, "before_cursor_execute", steps.statement)
    event.listen(Engine, "commit", steps.commit)
    sys.argv = ["fleetcast", *words]
    from hub.__main__ import main as fleetcast

    try:
        fleetcast()
    finally:
        where.write_text(str(steps.count))


if __name__ == "__main__":
    main()
