"""A road that breaks: every so many seconds each connection over it is cut, in the middle of whatever it carries."""

import contextlib
import socket
import struct
import threading
import time

CHUNK_BYTES = 16 * 1024
DOWN_SECONDS = 1.0  # for so long nobody gets through


class DroppingRoad:
    """Listens on a free loopback port and carries each connection to the broker's, at most so fast towards the node."""

    def __init__(self, broker_port: int, *, bytes_per_second: int, drop_seconds: float) -> None:
        self._broker_port, self._bytes_per_second = broker_port, bytes_per_second
        self._drop_seconds = drop_seconds
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._down = self._closed = False
        self.drops = 0  # of times that something was cut
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._break, daemon=True).start()

    def close(self) -> None:
        """Carry nothing more."""
        self._closed = True
        self._listener.close()
        self._cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._broker_port), timeout=5)
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            with self._lock:
                self._ends |= {near, far}
            threading.Thread(target=self._carry, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, self._bytes_per_second), daemon=True).start()

    def _break(self) -> None:
        while not self._closed:
            time.sleep(self._drop_seconds)
            self._down = True
            self.drops += self._cut()
            time.sleep(DOWN_SECONDS)
            self._down = False

    def _cut(self) -> bool:
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )  # a reset, and nothing more of what was written
                end.shutdown(socket.SHUT_RDWR)
        return bool(ends)

    def _carry(self, source: socket.socket, sink: socket.socket, bytes_per_second: int | None) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                sink.sendall(data)
                if bytes_per_second:
                    time.sleep(len(data) / bytes_per_second)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.close()
            with self._lock:
                self._ends.discard(end)
