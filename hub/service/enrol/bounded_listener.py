"""Listens on a socket that counts connections as they are accepted, before a byte of TLS, and never runs out of descriptors.

asyncio accepts whatever comes, and where there is no descriptor left it logs a traceback for each place in the backlog, every second. Here
the bound is met first; and should others have used up the descriptors, a spare one is given up to take the connection and end it.
"""

import contextlib
import errno
import os
import resource
import socket
import struct
from collections.abc import Callable
from typing import Any

from hub.core.floods.connection_limit import Doorkeeper

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
DESCRIPTORS_SHARE = 4  # one part in this number of the process's descriptors is an endpoint's, and the others stay the hub's
ENDING_MAX = 16  # connections that had to go and are not closed yet: asyncio closes them in its next turn
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: the connection is ended by RST and leaves nothing waiting


def connections_max(most: int) -> int:
    """Return how many connections may be open, `most` at most: the hub keeps descriptors for its broker, its database and its programs."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if limit == resource.RLIM_INFINITY else max(1, min(most, limit // DESCRIPTORS_SHARE))


class Listener(socket.socket):
    """Accept connections, and count each until it is closed. One thread accepts and closes."""

    def __init__(
        self,
        family: int,
        kind: int,
        proto: int,
        *,
        connections_max: Callable[[], int],
        address_max: Callable[[], int],
        ended: Callable[[str], None],
    ) -> None:
        super().__init__(family, kind, proto)
        self._connections_max, self._address_max, self._ended = connections_max, address_max, ended
        self._doorkeeper, self._connections = Doorkeeper(), dict[int, Accepted]()
        self._accepted = 0
        self._spare = os.open(os.devnull, os.O_RDONLY)

    @property
    def open_connections(self) -> int:
        """Return how many are accepted and not closed."""
        return len(self._doorkeeper)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept the next connection, for which others may have to go.

        Raises:
            BlockingIOError: nobody else waits, or those that have to go are to be closed first: asyncio accepts a whole backlog in a turn,
                and closes none in it.
        """
        if len(self._connections) >= self._connections_max() + ENDING_MAX:
            raise BlockingIOError
        while True:
            try:
                plain, address = super().accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._shed()
                continue
            self._accepted += 1
            connection = Accepted(plain, self._accepted, self._left, self._doorkeeper.keep)
            self._connections[connection.number] = connection
            gone = self._doorkeeper.enter(
                connection.number, address[0], connections_max=self._connections_max(), address_max=self._address_max()
            )
            for number in gone:  # This one is among them where all others are kept.
                self._connections[number].end()
            if gone:
                self._ended(address[0])
            return connection, address

    def close(self) -> None:
        """Listen no more."""
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        super().close()

    def _shed(self) -> None:
        """Take one connection with the spare descriptor, and end it: left alone it would be offered again at once, for ever."""
        if self._spare >= 0:
            os.close(self._spare)
        try:
            plain, address = super().accept()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            plain.close()
            self._ended(address[0])
        finally:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def _left(self, number: int) -> None:
        self._connections.pop(number, None)
        self._doorkeeper.leave(number)


class Accepted(socket.socket):
    """Hold one connection."""

    def __init__(self, plain: socket.socket, number: int, left: Callable[[int], None], kept: Callable[[int], None]) -> None:
        super().__init__(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self.number, self._left, self._kept = number, left, kept

    def keep(self) -> None:
        """Let it go for no other one: it is followed."""
        self._kept(self.number)

    def end(self) -> None:
        """Let the reader see its end, and close it."""
        with contextlib.suppress(OSError):
            self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, and count it no more."""
        self._left(self.number)
        super().close()
