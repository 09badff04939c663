"""Decide which of several processes takes a node's reports in, and find what is left out or done twice.

A shard `i/k` is one of k parts. Every process subscribes to all of a kind and leaves what is another's: a filter for each node would leave
out a node that nobody knows yet, and what it sends before somebody does. A part that no process has waits at the broker only as long as a
session of an earlier process holds it.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import Code, Refused

SHARDS_MAX = 64
_PATTERN = re.compile(r"([1-9]\d?)/([1-9]\d?)")


@dataclass(frozen=True, slots=True)
class Shard:
    """Hold one of `count` parts; the first is 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, name: str) -> bool:
        """Return whether a name is in this part."""
        return self.count == 1 or zlib.crc32(name.encode()) % self.count == self.index - 1


def parse(written: str) -> Shard:
    """Return a shard as settings write it, `2/3`.

    Raises:
        Refused: SETTINGS_INVALID.
    """
    found = _PATTERN.fullmatch(written)
    shard = Shard(int(found[1]), int(found[2])) if found else None
    if shard is None or shard.index > shard.count or shard.count > SHARDS_MAX:
        raise Refused(
            Code.SETTINGS_INVALID, f"shard {written!r} must look like 2/3: the second of three parts, at most {SHARDS_MAX}; the first is 1"
        )
    return shard


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold what is wrong with the processes that run; `about` tells several of one code apart."""

    code: Code
    text: str
    about: str = ""


def findings(shards: Sequence[tuple[str, Shard]]) -> list[Finding]:
    """Return what no process takes in, and what two do; each process has a name and a shard."""
    if not shards:
        return [
            Finding(
                Code.SHARD_GAP,
                "no process with the role ingest runs: what nodes report is not taken in; start `fleetcast hub --roles ingest`",
            )
        ]
    found = []
    sizes = Counter(shard.count for _, shard in shards)
    if len(sizes) > 1:
        each = ", ".join(f"{name} has {shard}" for name, shard in shards)
        found.append(
            Finding(Code.SHARD_OVERLAP, f"processes with the role ingest divide the fleet differently: {each}; all need the same k")
        )
    count = max(sizes, key=lambda one: (sizes[one], one))
    mine = [(name, shard) for name, shard in shards if shard.count == count]
    by_index = Counter(shard.index for _, shard in mine)
    whole = any(all((index, size) in {(one.index, one.count) for _, one in shards} for index in range(1, size + 1)) for size in sizes)
    lacking = [f"{index}/{count}" for index in range(1, count + 1) if not by_index[index]]
    if lacking and not whole:
        text = f"no process has shard {', '.join(lacking)}: what its nodes report is not taken in"
        found.append(Finding(Code.SHARD_GAP, f"{text}; start `fleetcast hub --roles ingest --shard {lacking[0]}`"))
    for index, times in sorted(by_index.items()):
        if times > 1:
            names = ", ".join(name for name, shard in mine if shard.index == index)
            found.append(Finding(Code.SHARD_OVERLAP, f"{times} processes have shard {index}/{count}: {names}; stop all but one"))
    return found
