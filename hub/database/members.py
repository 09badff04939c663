"""Keeps in SQL which processes of a hub run, with which roles, so that each knows of the others and people see all. Decides nothing.

Times are of the database's clock: those of several machines are not compared.
"""

from dataclasses import dataclass

from sqlalchemy import text

from hub.database.connection import Database

LIVE_SECONDS = 15.0  # A process that has said nothing for this long does not count as there.
KEPT_SECONDS = 86_400  # What is known of one that was killed, and that none of its name has replaced.

_CLOCK = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
_BEAT = text(
    "INSERT INTO members (name, roles, shard, host, pid, version, since, beat_at, listens, term, packet_bytes_max, folder)"  # noqa: S608  # our own words
    f" VALUES (:name, :roles, :shard, :host, :pid, :version, :since, {_CLOCK}, :listens, :term, :packet_bytes_max, :folder)"
    " ON CONFLICT (name) DO UPDATE SET roles = excluded.roles, shard = excluded.shard, host = excluded.host, pid = excluded.pid,"
    " version = excluded.version, since = excluded.since, beat_at = excluded.beat_at, listens = excluded.listens, term = excluded.term,"
    " packet_bytes_max = excluded.packet_bytes_max, folder = excluded.folder"
)
_ALL = text(
    f"SELECT name, roles, shard, host, pid, version, since, {_CLOCK} - beat_at AS age, listens, term, packet_bytes_max, folder"  # noqa: S608
    f" FROM members WHERE beat_at >= {_CLOCK} - {KEPT_SECONDS} ORDER BY name"
)
_LEAVE = text("DELETE FROM members WHERE name = :name AND host = :host AND pid = :pid")
_PRUNE = text(f"DELETE FROM members WHERE beat_at < {_CLOCK} - :kept")  # noqa: S608
_FORMER = text(
    "DELETE FROM members WHERE host = :host AND folder = :folder AND roles = :roles AND term = 0 AND name <> :name"  # noqa: S608
    f" AND beat_at < {_CLOCK} - :live"
)


@dataclass(frozen=True, slots=True)
class Member:
    """Hold one process: `age` are the seconds since it was last there, `term` is above 0 in a leader.

    `packet_bytes_max` is the largest packet that its broker takes; None before the broker has accepted it.
    """

    name: str
    roles: str
    shard: str
    host: str
    pid: int
    version: str
    since: int
    listens: bool
    term: int
    age: float = 0.0
    packet_bytes_max: int | None = None
    folder: str = ""  # The fleet's folder on its machine; empty in a process of an earlier version.

    @property
    def is_live(self) -> bool:
        """Return whether the process counts as there."""
        return self.age < LIVE_SECONDS

    @property
    def pid_on(self) -> tuple[str, int]:
        """Return the process and its machine, which are its own whatever its name is."""
        return self.host, self.pid


class Members:
    """Read and write the table of processes, on PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, member: Member) -> None:
        """Say that a process is there; a power cut may take it away."""
        names = ("name", "roles", "shard", "host", "pid", "version", "since", "listens", "term", "packet_bytes_max", "folder")
        with self._database.write_soon() as db:
            db.execute(_BEAT, {name: getattr(member, name) for name in names})

    def leave(self, member: Member) -> None:
        """Say that a process has ended as it was asked to."""
        with self._database.write_soon() as db:
            db.execute(_LEAVE, {"name": member.name, "host": member.host, "pid": member.pid})

    def prune(self) -> None:
        """Forget processes that were killed long ago."""
        with self._database.write_soon() as db:
            db.execute(_PRUNE, {"kept": KEPT_SECONDS})

    def forget_former(self, member: Member) -> None:
        """Forget processes that were killed, and whose place this one takes: the same machine, folder and roles, by another name."""
        with self._database.write_soon() as db:
            values = {name: getattr(member, name) for name in ("host", "folder", "roles", "name")}
            db.execute(_FORMER, {**values, "live": LIVE_SECONDS})

    def all(self) -> list[Member]:
        """Return every process that is known, by name."""
        with self._database.read() as db:
            return [Member(**row) for row in db.execute(_ALL).mappings()]
