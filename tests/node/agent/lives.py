"""A node's slots living through four releases as a process of its own, which is killed where it is told to be.

The releases are of files, so that workers start quickly. Whoever lives on after a kill goes by what is on disk alone.
"""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from node.trust.tuf_client import Release
from schemas.manifest import Block, File, Limits, Manifest, Shadow, Tensor, Variant
from schemas.names import sha256
from tests.node.agent.sites import Site, verified

FASTER = 20  # a second of the releases' own clock is 50 ms
WRITES = ("INSERT", "UPDATE", "DELETE")
GOOD, COMPARED, BROKEN, CRASHING = "1.0.0", "2.0.0", "3.0.0", "4.0.0"
ENDS = {GOOD: "serving", COMPARED: "serving", BROKEN: "refused", CRASHING: "rolled_back"}
LIMITS = {
    GOOD: Limits(probation_seconds=0),
    COMPARED: Limits(probation_seconds=0, shadow=Shadow(seconds=1)),
    BROKEN: Limits(),
    CRASHING: Limits(probation_seconds=3600),
}
CONTENTS = {sha256(version.encode()): version.encode() for version in ENDS}


def release(version: str) -> Release:
    content = version.encode()
    file = File(path="data.bin", bytes=len(content), digest=sha256(content), blocks=(Block(sha256(content), len(content)),))
    variants = (Variant(name="v", runtime="files", files=(file,)),)
    inputs = (Tensor(name="x", datatype="FP32", shape=(1,)),) if version == BROKEN else ()  # which no file has
    return verified(Manifest(model="m", version=version, created=1, inputs=inputs, outputs=(), variants=variants, limits=LIMITS[version]))


class Life:
    """One process's share of the slots' life in a folder.

    `kill_at`: the write before which it dies by SIGKILL. `keep`: a folder that gets a copy of the life's folder as it is before each write,
    by the write's number: what SIGKILL would leave there, without a life for each.
    """

    def __init__(self, folder: Path, *, kill_at: int | None, keep: Path | None = None) -> None:
        self.site = Site(folder, CONTENTS, faster=FASTER)
        self.writes, self._kill_at, self._keep, self._within = 0, kill_at, keep, False
        self.site.store._db.set_trace_callback(self._count)

    def _count(self, statement: str) -> None:
        """SQLite says what it is about to run. Within a transaction one statement is like another: only its begin and its end count."""
        within, self._within = self._within, statement == "BEGIN IMMEDIATE" or (self._within and statement != "COMMIT")
        if statement in {"BEGIN IMMEDIATE", "COMMIT"} or (statement.startswith(WRITES) and not within):
            self.writes += 1
            if self._keep is not None:  # by another process: were this one to close the database's file, SQLite's locks would be gone
                subprocess.run(["cp", "-a", self.site.folder, self._keep / str(self.writes)], check=True)
            if self.writes == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def live(self) -> None:
        """To the end of all four releases, as a hub would ask for them: the next one when a receipt says how the last one ended."""
        site = self.site
        site.start()
        try:
            for version, outcome in ENDS.items():
                wanted = release(version)
                if not self._is_over(wanted, outcome):
                    site.wants(wanted)
                site.turn_until(lambda wanted=wanted, outcome=outcome: self._crash() or self._is_over(wanted, outcome))  # type: ignore[misc]
            site.turn_until(lambda: site.server.loaded_of("m") == {release(COMPARED).digest})
            site.turn_until(lambda: self._newest() == (COMPARED, "serving"))
        finally:
            site.server.stop()

    def _is_over(self, wanted: Release, outcome: str) -> bool:
        said = any(one.digest == wanted.digest and one.outcome == outcome for one in self.site.receipts())
        slot = self.site.slot()
        return said and (slot.proven or slot.serving is None or slot.serving.digest != wanted.digest)

    def _newest(self) -> tuple[str | None, str] | None:
        return next(((one.version, one.outcome) for one in reversed(self.site.receipts())), None)

    def _crash(self) -> None:
        """Once it is said to be served: so every life writes the same."""
        slot = self.site.slot()
        said = slot.state == "probation" and self._newest() == (CRASHING, "serving")
        if said and slot.serving is not None and slot.serving.version == CRASHING:
            process_id = self.site.server.loaded().get(slot.serving.digest)
            if process_id is not None:
                with suppress(ProcessLookupError):  # it is gone, and not yet known to be
                    os.kill(process_id, signal.SIGKILL)


def live(folder: Path, kill_at: int | None = None, keep: Path | None = None, writes: Any = None) -> None:
    """What a process of its own runs."""
    life = Life(folder, kill_at=kill_at, keep=keep)
    life.live()
    if writes is not None:
        writes.value = life.writes
