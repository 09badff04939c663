"""Limit the memory of a process and all its children with a cgroup of version 2, where one can be made. Knows no model.

The kernel counts all of a cgroup together, mapped files too, as on a device. It kills only within the cgroup. Where no cgroup
can be made (no rights, version 1, a container without a delegated subtree), the caller has to use limits for each process.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

TREE: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
ENTER: Final = 'echo $$ > "$0" && exec "$@"'  # A shell moves itself before it becomes the command, so no code runs between fork and exec.


@contextmanager
def memory_cgroup(bytes_max: int, *, tree: Path = TREE, own: Path = OWN) -> Iterator[Path | None]:
    """Make a cgroup with this limit and no swap. At the end it is removed with all that runs in it. None where none can be made."""
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
    """Return the command that starts the given one inside the cgroup."""
    return ["/bin/sh", "-c", ENTER, str(cgroup / "cgroup.procs"), *command]


def _make(bytes_max: int, tree: Path, own: Path) -> Path | None:
    for parent in _parents(tree, own):
        try:
            hands_on = (parent / "cgroup.subtree_control").read_text().split()
            # The kernel asks for this right on the cgroup above both places when a process is moved (cgroups(7), delegation).
            if "memory" not in hands_on or not os.access(parent / "cgroup.procs", os.W_OK):
                continue
            made = Path(tempfile.mkdtemp(prefix="fleetcast-check-", dir=parent))
        except OSError:
            continue
        try:
            (made / "memory.max").write_text(str(bytes_max))
            with suppress(OSError):  # The kernel may have no swap accounting.
                (made / "memory.swap.max").write_text("0")
            return made
        except OSError:
            with suppress(OSError):
                made.rmdir()
    return None


def _parents(tree: Path, own: Path) -> Iterator[Path]:
    """Yield the cgroups in which one could be made, the nearest first: our own and those above.

    A cgroup with processes in it passes on no controllers.
    """
    try:
        if not (tree / "cgroup.controllers").exists():
            return  # This is version 1, or both at once: version 2 does not control memory then.
        path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    here = tree / path.strip().lstrip("/")
    yield from (one for one in (here, *here.parents) if one.is_relative_to(tree))
