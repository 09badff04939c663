"""Notices that a SQLite database's file was deleted or replaced under the process that has it open. SQLite writes on to the old file."""

from pathlib import Path

from sqlalchemy.engine import make_url

from schemas.errors import Unreachable


class DatabaseFile:
    """Remember which file a database is; for a database that is no file, there is nothing to notice."""

    def __init__(self, url: str) -> None:
        at = make_url(url)
        self._path = Path(at.database).absolute() if at.get_backend_name() == "sqlite" and at.database else None
        self._identity: tuple[int, int] | None = None
        self._identity = self._look()

    def check(self) -> None:
        """Check that it is still the file that was opened.

        Raises:
            Unreachable: it is gone, or another one is in its place.
        """
        if self._path is None or (found := self._look()) == self._identity:
            return
        what = "was deleted or moved" if found is None else "was replaced by another file"
        raise Unreachable(
            f"{self._path} {what} while the hub ran, which can keep nothing any more: start the hub again, it takes what is there"
        )

    def _look(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return self._identity  # A disk that does not answer now proves nothing.
        return found.st_dev, found.st_ino
