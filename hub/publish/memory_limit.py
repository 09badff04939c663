"""A memory limit for a process and all its children, by a cgroup of the second version where one can be made. Knows no model.

The kernel counts all of a cgroup together, files that are mapped too, as a device does, and kills within it and nowhere else. Where none
can be made (no rights, another version, a container with no part of the tree), whoever asks has to do with limits of each process.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

TREE: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
ENTER: Final = 'echo $$ > "$0" && exec "$@"'  # a shell moves itself before it becomes the command: no code runs between fork and exec


@contextmanager
def memory_cgroup(bytes_max: int, *, tree: Path = TREE, own: Path = OWN) -> Iterator[Path | None]:
    """A new cgroup with this limit and no swap, gone at the end with all that runs in it; None where none can be made."""
    made = _make(bytes_max, tree, own)
    try:
        yield made
    finally:
        if made is not None:
            with suppress(OSError):
                (made / "cgroup.kill").write_text("1")
            with suppress(OSError):
                made.rmdir()


def inside(cgroup: Path, command: Sequence[str]) -> list[str]:
    """The command, started within the cgroup."""
    return ["/bin/sh", "-c", ENTER, str(cgroup / "cgroup.procs"), *command]


def _make(bytes_max: int, tree: Path, own: Path) -> Path | None:
    for parent in _parents(tree, own):
        try:
            hands_on = (parent / "cgroup.subtree_control").read_text().split()
            # Moving a process asks for this right on the cgroup above both places (cgroups(7), delegation).
            if "memory" not in hands_on or not os.access(parent / "cgroup.procs", os.W_OK):
                continue
            made = Path(tempfile.mkdtemp(prefix="fleetcast-check-", dir=parent))
        except OSError:
            continue
        try:
            (made / "memory.max").write_text(str(bytes_max))
            with suppress(OSError):  # a kernel without swap accounting
                (made / "memory.swap.max").write_text("0")
            return made
        except OSError:
            with suppress(OSError):
                made.rmdir()
    return None


def _parents(tree: Path, own: Path) -> Iterator[Path]:
    """Where a cgroup could be made: our own and those above it, the nearest first. One with processes in it hands on no controllers."""
    try:
        if not (tree / "cgroup.controllers").exists():
            return  # the first version, or both at once: memory is not the second's
        path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    here = tree / path.strip().lstrip("/")
    yield from (one for one in (here, *here.parents) if one.is_relative_to(tree))
