"""Lets one apply of a blueprint run at a time over a database of PostgreSQL's, on whichever machine."""

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from hub.database.connection import Database
from schemas.errors import Unreachable

IDLE_SECONDS = 1800  # The server frees the lock of a machine that was silent for this long: no change takes so long to be answered.
APPLY_LOCK = 0x666C_6170_706C_79  # "flapply"

_TAKE, _HAS = text("SELECT pg_try_advisory_lock(:lock), pg_backend_pid()"), text("SELECT pg_backend_pid()")


class ApplyLock:
    """Hold the lock in a session of its own: it is free when the process ends, however it ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: Connection | None = None
        self._pid = 0

    def take(self) -> bool:
        """Return whether this process has the lock now.

        Raises:
            Unreachable: the database does not answer.
        """
        session = self._session = self._database.session(idle_seconds=IDLE_SECONDS)
        try:
            taken, self._pid = session.execute(_TAKE, {"lock": APPLY_LOCK}).one()
        except SQLAlchemyError as error:
            raise Unreachable(f"database: {error}") from error
        return bool(taken)

    def check(self) -> None:
        """Check that this process still has it, and say to the server that it is there.

        Raises:
            Unreachable: it has not: the connection has ended, and another apply may run.
        """
        try:
            if self._session is not None and self._session.execute(_HAS).scalar() == self._pid:
                return
        except SQLAlchemyError:
            pass
        raise Unreachable("the connection to the database has ended, and another apply may run by now")

    def leave(self) -> None:
        """Free it."""
        session, self._session = self._session, None
        if session is not None:
            session.invalidate()  # The server frees the lock with the session.
            session.close()
