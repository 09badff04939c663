"""Keep what a program writes from other users of the machine: by the umask for new files, and file by file for older ones."""

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fleetcast import durable

OWNER_ALONE: Final = 0o077  # a device: files are 0600
OWNER_AND_GROUP: Final = 0o027  # a hub, whose folder several operators may share: files are 0640
OTHERS: Final = 0o007
PASSABLE: Final = 0o755  # as systemd makes the folders above a state folder


def keep_new_files_private(mask: int) -> None:
    """Take these permissions from every file that this process and its children make, beside those that its own umask takes."""
    os.umask(os.umask(OWNER_ALONE) | mask)


def make_private_folder(path: Path) -> None:
    """Make a folder that its owner alone may enter. Missing folders above it are made so that others may pass through them.

    Another user may own the folder later: systemd gives a state folder that root has made to its unit's dynamic user, who has to get there.

    Raises:
        OSError: a folder cannot be made.
    """
    missing = [above for above in path.parents if not above.exists()]
    for above in reversed(missing):
        durable.make_folder(above)
        above.chmod(PASSABLE)
    durable.make_folder(path, mode=0o700)


def close_to_others(paths: Iterable[Path]) -> None:
    """Take all permissions of other users from regular files; those that are not ours to change stay as they are."""
    for path in paths:
        with contextlib.suppress(OSError):
            found = path.lstat().st_mode
            if stat.S_ISREG(found) and found & OTHERS:
                path.chmod(stat.S_IMODE(found) & ~OTHERS)
