"""Name a key that signs, and where its passphrase is. The key itself is opened when it signs, and its passphrase is in no text."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PASSPHRASE_VARIABLE: Final = "FLEETCAST_PASSPHRASE_FILE"  # noqa: S105  # a name, not a secret


@dataclass(frozen=True, slots=True)
class Key:
    """Name the file of a key in PEM form, or of a reference to a key on a token.

    Without a passphrase, and without a file that holds it, the file that FLEETCAST_PASSPHRASE_FILE names is read; a key without
    encryption needs none.

    >>> Key("team.pem", passphrase="secret")
    Key(path=PosixPath('team.pem'))
    """

    path: Path
    passphrase: str | None = field(default=None, repr=False)
    passphrase_file: Path | None = field(default=None, repr=False)

    def __init__(
        self, path: str | os.PathLike[str], *, passphrase: str | None = None, passphrase_file: "str | os.PathLike[str] | None" = None
    ):
        """Name it; no file is read."""
        if passphrase is not None and passphrase_file is not None:
            raise TypeError("give passphrase or passphrase_file, not both")
        object.__setattr__(self, "path", Path(path))
        object.__setattr__(self, "passphrase", passphrase)
        object.__setattr__(self, "passphrase_file", Path(passphrase_file) if passphrase_file is not None else None)

    @property
    def passphrase_place(self) -> Path | None:
        """Return the file with the passphrase, if it is in one."""
        named = os.environ.get(PASSPHRASE_VARIABLE)
        return self.passphrase_file or (Path(named) if named and self.passphrase is None else None)
